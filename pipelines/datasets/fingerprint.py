"""A perceptual fingerprint of a video: a 64-bit hash of each of a few frames that lie evenly over it.

picture ── 32 x 32 luma ── discrete cosine transform ── the 64 lowest frequencies but the mean ── above the median? ──>
64 bits. Another encoder, size or brightness moves these frequencies little or all together, another picture moves half
of the bits. A frame without texture (black, a fade, a plain slide) has no bits to speak of: its hash is nothing but
noise, so it is marked and never compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.datasets.frame_access import Picture

NUM_FRAMES = 8
HASH_BITS = 64
_SIDE = 32
# Standard deviation of the luma of the small picture, of 255. JPEG noise on a plain picture stays below 1.
_LEAST_TEXTURE = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """hashes: one a frame, in order; None for a frame without texture."""

    hashes: tuple[int | None, ...]

    @property
    def num_textured(self) -> int:
        return sum(value is not None for value in self.hashes)


def fingerprint(frames: Sequence[Picture]) -> Fingerprint:
    """ValueError names a JPEG file that can't be decoded."""
    return Fingerprint(hashes=tuple(_hash_of(small_luma(data, index)) for index, data in enumerate(frames)))


def small_luma(data: Picture, index: int = 0) -> np.ndarray:
    """A picture as float64[32, 32], averaged over areas."""
    import simplejpeg
    from PIL import Image

    if isinstance(data, np.ndarray):
        whole = Image.fromarray(data).convert("L").convert("F")
        return np.asarray(whole.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)
    try:
        # libjpeg scales down while it decodes, to twice the side at the least: the rest is the exact mean over areas.
        luma = simplejpeg.decode_jpeg(data, colorspace="GRAY", min_height=2 * _SIDE, min_width=2 * _SIDE, min_factor=1)
    except ValueError as error:
        raise ValueError(f"frame {index} is not a readable JPEG: {error}") from error
    image = Image.fromarray(luma[:, :, 0]).convert("F")
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.BOX), np.float64)


def _hash_of(luma: np.ndarray) -> int | None:
    if luma.std() < _LEAST_TEXTURE:
        return None
    frequencies = (_COSINES @ luma @ _COSINES.T)[_LOWEST]
    bits = frequencies > np.median(frequencies)
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def _cosines() -> np.ndarray:
    """The transform's rows: frequency by place."""
    frequency, place = np.arange(_SIDE)[:, None], np.arange(_SIDE)[None, :]
    return np.cos(np.pi * frequency * (2 * place + 1) / (2 * _SIDE))


def _lowest() -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the `HASH_BITS` lowest frequencies, by their sum, without the mean at (0, 0)."""
    places = sorted(((row, column) for row in range(_SIDE) for column in range(_SIDE)), key=lambda at: (sum(at), at))
    rows, columns = zip(*places[1 : HASH_BITS + 1], strict=True)
    return np.array(rows), np.array(columns)


_COSINES, _LOWEST = _cosines(), _lowest()
