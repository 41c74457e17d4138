"""HDR into SDR: against the published formulas, one number at a time, and through files of every codec that carries it.

The expectation is computed here with scalars and shares no code with the tables under test.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import pytest
import simplejpeg
from PIL import Image

from pipelines.ingest.encode import encode_frame
from pipelines.ingest.tonemap import is_hdr, tone_map
from tests.pipelines.ingest.media import make_video, run
from tests.pipelines.ingest.test_zoo import check_one_pass, plan

TRC = {"pq": (16, "smpte2084"), "hlg": (18, "arib-std-b67"), "sdr": (1, "bt709")}
BT2020_TO_BT709 = ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187))  # BT.2087
BT709_TO_BT2020 = ((0.6274, 0.3293, 0.0433), (0.0691, 0.9195, 0.0114), (0.0164, 0.0880, 0.8956))  # BT.2087


def pq_inverse(nits: float) -> float:
    power = (max(nits, 0.0) / 10000) ** 0.1593017578125
    return float(((0.8359375 + 18.8515625 * power) / (1 + 18.6875 * power)) ** 78.84375)


def pq(signal: float) -> float:
    root = signal ** (1 / 78.84375)
    return float(10000 * (max(root - 0.8359375, 0) / (18.8515625 - 18.6875 * root)) ** (1 / 0.1593017578125))


def bt2390(nits: float, peak: float = 1000, white: float = 203) -> float:
    """Section 5.4.1 of the report: Hermite spline above the knee."""
    source, target = pq_inverse(min(nits, peak)) / pq_inverse(peak), pq_inverse(white) / pq_inverse(peak)
    knee = 1.5 * target - 0.5
    if source < knee:
        return nits
    t = (source - knee) / (1 - knee)
    spline = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * target
    return pq(spline * pq_inverse(peak))


def multiply(matrix: Any, vector: list[float]) -> list[float]:
    return [sum(weight * value for weight, value in zip(row, vector, strict=True)) for row in matrix]


def displayed_nits(signal: list[float], transfer: str) -> list[float]:
    if transfer == "pq":
        return [pq(value) for value in signal]
    scene = [v * v / 3 if v <= 0.5 else (np.exp((v - 0.55991073) / 0.17883277) + 0.28466892) / 12 for v in signal]
    luminance = 0.2627 * scene[0] + 0.6780 * scene[1] + 0.0593 * scene[2]
    return [float(1000 * luminance**0.2 * value) for value in scene]


def expected_rgb(yuv: tuple[int, int, int], transfer: str, *, full: bool = False) -> list[float]:
    """8-bit BT.709 of a 10-bit BT.2020 Y'CbCr code (BT.709 for SDR)."""
    y, cb, cr = (yuv[0] - 64) / 876, (yuv[1] - 512) / 896, (yuv[2] - 512) / 896
    if full:
        y, cb, cr = yuv[0] / 1023, (yuv[1] - 512) / 1023, (yuv[2] - 512) / 1023
    red, blue = (0.2126, 0.0722) if transfer == "sdr" else (0.2627, 0.0593)
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    signal = [min(max(v, 0), 1) for v in (r, (y - red * r - blue * b) / (1 - red - blue), b)]
    if transfer == "sdr":
        return [255 * value for value in signal]
    nits = displayed_nits(signal, transfer)
    scale = bt2390(max(nits)) / max(max(nits), 1e-9)
    shown = multiply(BT2020_TO_BT709, [value * scale for value in nits])
    return [255 * min(max(value / 203, 0), 1) ** (1 / 2.4) for value in shown]


def frame_of(codes: np.ndarray, transfer: str) -> Any:
    """A frame of 4:4:4 with the given [3, width] codes in every line."""
    frame = av.VideoFrame(codes.shape[1], 4, "yuv444p10le")
    for plane, row in zip(frame.planes, codes, strict=True):
        np.frombuffer(plane, "<u2").reshape(4, -1)[:, : codes.shape[1]] = row  # type: ignore[call-overload]
    frame.color_trc, frame.color_primaries, frame.colorspace, frame.color_range = TRC[transfer][0], 9, 9, 1
    return frame


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_a_grey_ramp_is_neutral_and_monotonic(transfer: str) -> None:
    luma = np.arange(1024)
    rgb = tone_map(frame_of(np.stack([luma, 0 * luma + 512, 0 * luma + 512]), transfer), 1024, 4, None)[0].astype(int)
    assert (np.ptp(rgb, axis=1) == 0).all() and (np.diff(rgb[:, 0]) >= 0).all()
    assert rgb[64, 0] == 0 and rgb[940, 0] == 255 and 228 < rgb[573 if transfer == "pq" else 721, 0] < 232
    wanted = [expected_rgb((int(code), 512, 512), transfer)[0] for code in luma[64:941]]
    assert np.abs(rgb[64:941, 0] - np.array(wanted)).max() < 1.01


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
def test_any_colour_is_what_the_formulas_say(transfer: str) -> None:
    codes = np.random.default_rng(7).integers([64, 300, 300], [800, 720, 720], (500, 3))
    rgb = tone_map(frame_of(codes.T, transfer), 500, 4, None)[0]
    wanted = np.array([expected_rgb(tuple(code), transfer) for code in codes.tolist()])
    dim = wanted < 12  # the inverse of BT.1886 is steep at black: a rounding of the published matrix shows
    assert np.abs(rgb - wanted)[~dim].max() < 1.5 and rgb[dim].max() < 20


def hdr_code(rgb: tuple[int, int, int], transfer: str) -> tuple[int, int, int]:
    """The 10-bit code that shows an SDR colour (BT.1886, white at 80 nits, below the knee) on an HDR display."""
    nits = multiply(BT709_TO_BT2020, [80 * (value / 255) ** 2.4 for value in rgb])
    if transfer == "pq":
        r, g, b = (pq_inverse(value) for value in nits)
    else:
        luminance = 0.2627 * nits[0] + 0.6780 * nits[1] + 0.0593 * nits[2]
        scene = [value / 1000 * (luminance / 1000) ** (1 / 1.2 - 1) for value in nits]
        r, g, b = (
            (3 * v) ** 0.5 if v <= 1 / 12 else 0.17883277 * float(np.log(12 * v - 0.28466892)) + 0.55991073
            for v in scene
        )
    y = 0.2627 * r + 0.6780 * g + 0.0593 * b
    return round(64 + 876 * y), round(512 + 896 * (b - y) / 1.8814), round(512 + 896 * (r - y) / 1.4746)


COLOURS = [(255, 255, 255), (128, 128, 128), (200, 80, 60), (70, 160, 80), (60, 90, 190), (220, 200, 90)]
CODECS: dict[str, tuple[str, dict[str, Any]]] = {
    "hevc": ("a.mp4", {"vcodec": "libx265", "crf": 4, "x265-params": "log-level=error:keyint=5"}),
    "hevc-ts": ("a.ts", {"vcodec": "libx265", "crf": 4, "x265-params": "log-level=error:keyint=5:bframes=2"}),
    "vp9": ("a.webm", {"vcodec": "libvpx-vp9", "crf": 4, "b:v": 0, "deadline": "realtime", "g": 5}),
    "h264": ("a.mkv", {"vcodec": "libx264", "crf": 4, "g": 5}),
    "h264-full-range": ("a.mkv", {"vcodec": "libx264", "crf": 4, "g": 5, "color_range": "pc"}),
    "av1": ("a.mp4", {"vcodec": "libsvtav1", "crf": 4, "preset": 12, "g": 5}),
    "prores": ("a.mov", {"vcodec": "prores_ks", "pix_fmt": "yuv422p10le"}),
}


def patches(path: Path, codes: list[tuple[int, int, int]], transfer: str, options: dict[str, Any]) -> Path:
    """A film of ten equal frames with one 32 pixels wide patch per code, tagged as BT.2020 (BT.709 for SDR)."""
    width, height = 32 * len(codes), 64
    wide, small = np.repeat(np.array(codes, np.uint16), 32, axis=0), np.repeat(np.array(codes, np.uint16), 16, axis=0)
    planes = [np.tile(wide[:, 0], (height, 1)), *(np.tile(small[:, i], (height // 2, 1)) for i in (1, 2))]
    raw = path.with_suffix(".yuv")
    raw.write_bytes(b"".join(plane.astype("<u2").tobytes() for plane in planes) * 10)
    space = {"color_primaries": "bt709", "colorspace": "bt709"}
    if transfer != "sdr":
        space = {"color_primaries": "bt2020", "colorspace": "bt2020nc"}
    tags = {**space, "color_trc": TRC[transfer][1], "color_range": "tv"}
    source = ffmpeg.input(str(raw), f="rawvideo", pix_fmt="yuv420p10le", s=f"{width}x{height}", r=5)
    renamed = f"setparams=color_primaries={tags['color_primaries']}:color_trc={tags['color_trc']}"
    renamed += f":colorspace={tags['colorspace']}:range={options.get('color_range', 'tv')}"
    run(source.output(str(path), **{"pix_fmt": "yuv420p10le", "vf": renamed, "threads": 1, **tags, **options}))
    return path


def stored_patches(jpeg: bytes) -> np.ndarray:
    picture = np.asarray(Image.open(io.BytesIO(jpeg)), float)
    return picture[24:40].reshape(16, -1, 32, 3)[:, :, 12:20].mean(axis=(0, 2))


@pytest.mark.parametrize("transfer", ["pq", "hlg"])
@pytest.mark.parametrize("codec", CODECS)
def test_hdr_files_show_the_colours_of_the_sdr_picture_in_them(codec: str, transfer: str, tmp_path: Path) -> None:
    codes = [hdr_code(colour, transfer) for colour in COLOURS]
    file_name, options = CODECS[codec]
    video = plan(patches(tmp_path / file_name, codes, transfer, options))
    jpegs = check_one_pass(video)
    full = codec == "h264-full-range"
    wanted = np.array([expected_rgb(code, transfer, full=full) for code in codes])
    if not full:  # white at 80 nits of 203
        scaled = np.array(COLOURS) * (80 / 203) ** (1 / 2.4)
        assert np.abs(wanted - scaled).max() < 2, (wanted, scaled)
    for jpeg in jpegs:
        assert np.abs(stored_patches(jpeg) - wanted).max() < 4, (stored_patches(jpeg).round(1), wanted.round(1))


def test_ten_bit_sdr_is_converted_by_its_matrix(tmp_path: Path) -> None:
    codes = [(64, 512, 512), (502, 512, 512), (940, 512, 512), (400, 440, 640), (500, 600, 420), (700, 380, 560)]
    wanted = np.array([expected_rgb(code, "sdr") for code in codes])
    for codec in ("hevc", "vp9", "h264", "prores"):
        file_name, options = CODECS[codec]
        jpegs = check_one_pass(plan(patches(tmp_path / file_name, codes, "sdr", options)))
        assert np.abs(stored_patches(jpegs[0]) - wanted).max() < 4, codec


def test_progressive_sdr_is_converted_as_ever(tmp_path: Path) -> None:
    files = {"a.mp4": {}, "b.mov": {"vcodec": "prores_ks", "pix_fmt": "yuv422p10le"}, "c.mkv": {"pix_fmt": "yuv444p"}}
    for name, options in files.items():
        with av.open(str(make_video(tmp_path / name, seconds=0.3, **options))) as container:  # type: ignore[arg-type]
            frame = next(container.decode(video=0))
        assert not is_hdr(frame)
        plain = frame.reformat(format="rgb24", src_colorspace=5, src_color_range=1, threads=1).to_ndarray()
        jpeg = simplejpeg.encode_jpeg(plain, quality=85, colorspace="RGB", colorsubsampling="420")
        assert encode_frame(frame, width=96, height=64, orientation="", jpeg_quality=85) == jpeg
