"""SDR in wide primaries (BT.2020, Display P3) to those of BT.709, which the stored JPEG is taken to have.

Data: 8-bit R'G'B' → light of a BT.1886 display → BT.709 primaries, clipped → 8-bit R'G'B'. Without it the colours of
such a film are stored too pale.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from av.video.reformatter import ColorPrimaries

from pipelines.ingest.tonemap import matrix_to_bt709, mix

_WIDE = {ColorPrimaries.BT2020, ColorPrimaries.SMPTE432}
_DISPLAY_GAMMA = 2.4
_STEPS = 0xFFFF  # last index of the table over the square root of light, which has fine steps where light is dim


def is_wide(frame: Any) -> bool:
    """Whether the frame says that its primaries are wider than BT.709's."""
    return frame.color_primaries in _WIDE


def to_bt709(rgb: np.ndarray, primaries: int) -> np.ndarray:
    """uint8 RGB [height, width, 3] of the given primaries, in those of BT.709."""
    light = [_light_table().take(rgb[:, :, channel]) for channel in range(3)]
    signal = _signal_table()
    return np.stack([signal.take(_place(mix(light, row))) for row in matrix_to_bt709(primaries)], axis=-1)


def _place(light: np.ndarray) -> np.ndarray:
    root = np.sqrt(np.clip(light, np.float32(0), np.float32(1)))
    return (root * np.float32(_STEPS) + np.float32(0.5)).astype(np.uint16)


@functools.cache
def _light_table() -> np.ndarray:
    return ((np.arange(256) / 255) ** _DISPLAY_GAMMA).astype(np.float32)


@functools.cache
def _signal_table() -> np.ndarray:
    return np.rint(255 * (np.arange(_STEPS + 1) / _STEPS) ** (2 / _DISPLAY_GAMMA)).astype(np.uint8)
