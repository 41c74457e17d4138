"""An HDR frame to the BT.709 picture that is stored: PQ or HLG, wide gamut, into 8-bit SDR.

Data: decoded frame → Y'CbCr of the stored size, 16 bits → R'G'B' → light in units of PEAK_NITS → tone curve on the
largest of the three, so that hues stay → BT.709 primaries → the signal that a BT.1886 display shows as that light. The
curve is the EETF of BT.2390 from PEAK_NITS to WHITE_NITS: light up to 89 nits passes unchanged, and the reference
white of BT.2408 (203 nits, 58 % PQ, 75 % HLG) becomes 230 of 255, brighter highlights lying above it. The metadata of
the film (mastering display, MaxCLL, dynamic) is not read: it is often wrong, and it would make the picture of a frame
depend on more than the frame.

Each curve is a table, made once; per frame only additions, multiplications and square roots are left, which IEEE 754
rounds the same way on every processor. It adds 4 ms to the 2 ms that storing a picture of 640x360 takes.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

PEAK_NITS = 1000.0  # brighter light is shown as this; also the display that HLG is rendered for
WHITE_NITS = 203.0  # of HDR shown as the full white of SDR
_PQ_M1, _PQ_M2, _PQ_C1, _PQ_C2, _PQ_C3 = 2610 / 16384, 2523 / 32, 3424 / 4096, 2413 / 128, 2392 / 128
_HLG_A, _HLG_B, _HLG_C = 0.17883277, 0.28466892, 0.55991073
_HLG_GAMMA = 1.2  # of the rendering for a display of 1000 nits
_BT2020_LUMA = (0.2627, 0.6780, 0.0593)
_BT709_LUMA = (0.2126, 0.7152, 0.0722)
_STEPS = 0xFFFF  # last index of every table
# x and y of red, green and blue. White is D65 in all.
_BT709 = ((0.640, 0.330), (0.300, 0.600), (0.150, 0.060))
_BT2020 = ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046))
_CHROMATICITIES = {ColorPrimaries.BT709: _BT709, ColorPrimaries.SMPTE432: ((0.680, 0.320), (0.265, 0.690), _BT709[2])}
_D65 = (0.3127, 0.3290)


def is_hdr(frame: Any) -> bool:
    """Whether the frame says that its transfer is PQ (SMPTE ST 2084) or HLG (ARIB STD-B67)."""
    return frame.color_trc in (ColorTrc.SMPTE2084, ColorTrc.ARIB_STD_B67)


def tone_map(frame: Any, width: int, height: int, scaling: Interpolation | None) -> np.ndarray:
    """The frame as uint8 RGB [height, width, 3] of BT.709.

    Args:
        frame: an av.VideoFrame for which `is_hdr` holds. Without a matrix or primaries it is read as BT.2020.
        width: of the result, pixels.
        height: of the result, pixels.
        scaling: how sizes and chroma are interpolated; None for swscale's default.
    """
    is_full_range = frame.color_range == ColorRange.JPEG or frame.format.is_rgb
    planes = frame.reformat(
        width=width,
        height=height,
        format="yuv444p16le",
        src_colorspace=Colorspace.BT2020,  # the same on both sides: the matrix is undone below, in full precision
        dst_colorspace=Colorspace.BT2020,
        src_color_range=ColorRange.JPEG if is_full_range else ColorRange.MPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=scaling,
        threads=1,
    ).planes
    is_bt709_matrix = int(frame.colorspace) == Colorspace.ITU709 and not frame.format.is_rgb
    codes = _rgb_codes([_samples(plane) for plane in planes], _BT709_LUMA if is_bt709_matrix else _BT2020_LUMA)
    light = _light(codes, is_hlg=frame.color_trc == ColorTrc.ARIB_STD_B67)
    largest = np.maximum(np.maximum(light[0], light[1]), light[2])
    gain = _curve_table().take(_root_index(largest)) / np.maximum(largest, np.float32(1))
    matrix = matrix_to_bt709(frame.color_primaries)
    signal = _signal_table()
    return np.stack([signal.take(_root_index(mix(light, row) * gain)) for row in matrix], axis=-1)


def _samples(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, "<u2").reshape(plane.height, -1)[:, : plane.width].astype(np.float32)


def _rgb_codes(planes: list[np.ndarray], luma: tuple[float, float, float]) -> list[np.ndarray]:
    red, green, blue = luma
    y = (planes[0] - np.float32(16 << 8)) * np.float32(1 / (219 << 8))
    cb, cr = ((plane - np.float32(128 << 8)) * np.float32(1 / (224 << 8)) for plane in planes[1:])
    values = (
        y + np.float32(2 - 2 * red) * cr,
        y - np.float32(2 * blue * (1 - blue) / green) * cb - np.float32(2 * red * (1 - red) / green) * cr,
        y + np.float32(2 - 2 * blue) * cb,
    )
    return [_index(value) for value in values]


def _light(codes: list[np.ndarray], *, is_hlg: bool) -> list[np.ndarray]:
    """Displayed light of each channel, in units of PEAK_NITS."""
    if not is_hlg:
        return [_pq_table().take(code) for code in codes]
    scene = [_hlg_table().take(code) for code in codes]
    system_gain = _hlg_gain_table().take(_root_index(mix(scene, _BT2020_LUMA)))
    return [channel * system_gain for channel in scene]


def mix(channels: list[np.ndarray], weights: Any) -> np.ndarray:
    # Written out, since a matrix product may sum in another order on another processor.
    mixed: np.ndarray = (
        channels[0] * np.float32(weights[0])
        + channels[1] * np.float32(weights[1])
        + channels[2] * np.float32(weights[2])
    )
    return mixed


def _index(value: np.ndarray) -> np.ndarray:
    """Place in a table over 0 to 1; what lies outside is clipped."""
    return (np.clip(value, np.float32(0), np.float32(1)) * np.float32(_STEPS) + np.float32(0.5)).astype(np.uint16)


def _root_index(value: np.ndarray) -> np.ndarray:
    """Place in a table over the square root, which has fine steps where light is dim."""
    return _index(np.sqrt(np.maximum(value, np.float32(0))))


def _steps() -> np.ndarray:
    return np.arange(_STEPS + 1) / _STEPS


def _pq_to_nits(signal: np.ndarray) -> np.ndarray:
    root = np.maximum(signal, 0) ** (1 / _PQ_M2)
    nits: np.ndarray = 10_000 * (np.maximum(root - _PQ_C1, 0) / (_PQ_C2 - _PQ_C3 * root)) ** (1 / _PQ_M1)
    return nits


def _nits_to_pq(nits: np.ndarray | float) -> np.ndarray:
    power = (np.asarray(nits) / 10_000) ** _PQ_M1
    return np.asarray(((_PQ_C1 + _PQ_C2 * power) / (1 + _PQ_C3 * power)) ** _PQ_M2)


@functools.cache
def _pq_table() -> np.ndarray:
    return (_pq_to_nits(_steps()) / PEAK_NITS).astype(np.float32)


@functools.cache
def _hlg_table() -> np.ndarray:
    """Scene light of an HLG signal, 0 to 1."""
    signal = _steps()
    bright = (np.exp((signal - _HLG_C) / _HLG_A) + _HLG_B) / 12
    return np.where(signal <= 0.5, signal**2 / 3, bright).astype(np.float32)


@functools.cache
def _hlg_gain_table() -> np.ndarray:
    """What a display of PEAK_NITS multiplies scene light by, from the root of its luminance."""
    return (_steps() ** (2 * (_HLG_GAMMA - 1))).astype(np.float32)


@functools.cache
def _curve_table() -> np.ndarray:
    """BT.2390's EETF over the light that it is given, from the root of that light in units of PEAK_NITS."""
    peak = float(_nits_to_pq(PEAK_NITS))
    most = float(_nits_to_pq(WHITE_NITS)) / peak
    knee = 1.5 * most - 0.5
    nits = _steps() ** 2 * PEAK_NITS
    signal = _nits_to_pq(nits) / peak
    t = (np.maximum(signal, knee) - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (3 * t**2 - 2 * t**3) * most
    mapped = np.where(signal < knee, nits, _pq_to_nits(spline * peak))
    return (mapped / np.maximum(nits, 1e-9)).astype(np.float32)


@functools.cache
def _signal_table() -> np.ndarray:
    """8-bit signal from the root of light in units of PEAK_NITS, WHITE_NITS being 255: the inverse of BT.1886."""
    light = np.minimum(_steps() ** 2 * (PEAK_NITS / WHITE_NITS), 1)
    return np.rint(255 * light ** (1 / 2.4)).astype(np.uint8)


@functools.cache
def matrix_to_bt709(primaries: int) -> np.ndarray:
    source = _CHROMATICITIES.get(ColorPrimaries(primaries), _BT2020)
    return np.linalg.solve(_rgb_to_xyz(_BT709), _rgb_to_xyz(source)).round(6)


def _rgb_to_xyz(chromaticities: tuple[tuple[float, float], ...]) -> np.ndarray:
    def xyz(point: tuple[float, float]) -> list[float]:
        x, y = point
        return [x / y, 1.0, (1 - x - y) / y]

    columns = np.array([xyz(point) for point in chromaticities]).T
    return columns * np.linalg.solve(columns, np.array(xyz(_D65)))
