"""Bicubic resizing of uint8 frames, bit for bit what Pillow makes, on the device the frames are on.

    frames ── taps along one side ──> rounded to uint8 ── taps along the other ──> rounded to uint8

The published model was trained on frames that Pillow resized, and Pillow computes in fixed point: a pixel is a weighted
sum of its neighbours, the weights being integers of 22 fractional bits, in int32. Integers add up to the same on every
device, so the result does not depend on where it was made. A side that keeps its length is not touched.

Rounding between the passes makes their order visible, in the last bit. It is Pillow 13's: the width first, unless the
height loses more than twice the pixels that the width does (the releases before knew only the first). The sides are
therefore handed to Pillow one at a time, so that its version does not matter.

Frames on the CPU go through Pillow, which takes a sixth of the time that the same sums take in torch there
(`python benchmarks/processing.py`). Frames on any other device stay there.

Shapes: N frames, H height, W width, M output length of the side in hand, K taps.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Pixels = TypeVar("Pixels", np.ndarray, Tensor)
"""A numpy array, or a torch tensor on any device; what comes out is of the same kind."""

_FRACTION_BITS = 22  # Pillow's: 32 less 8 for a pixel and 2 for sums beyond a pixel's range, which bicubic weights make
_RADIUS = 2.0  # of the bicubic kernel, in source pixels where the picture grows
_SHARPNESS = -0.5  # the kernel's free parameter; Pillow's choice
_CHUNK_VALUES = 1 << 24  # int32 sums held at once: 64 MiB, and as much again for a product


def resize(frames_NHWC: Pixels, size: tuple[int, int]) -> Pixels:
    """uint8[N, H, W, 3] -> uint8[N, height, width, 3] for `size` = (width, height), on the same device."""
    if (frames_NHWC.shape[2], frames_NHWC.shape[1]) == size:
        return frames_NHWC
    if isinstance(frames_NHWC, np.ndarray):
        return resize_pillow(frames_NHWC, size)
    if frames_NHWC.device.type == "cpu":
        return torch.from_numpy(resize_pillow(frames_NHWC.numpy(), size))
    return resize_torch(frames_NHWC, size)


def resize_pillow(frames_NHWC: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`resize` by Pillow."""
    from PIL import Image

    num_frames, old_height, old_width, channels = frames_NHWC.shape
    between = (old_width, size[1]) if _height_first((old_width, old_height), size) else (size[0], old_height)
    resized_NHWC = np.empty((num_frames, size[1], size[0], channels), np.uint8)
    for target, frame in zip(resized_NHWC, frames_NHWC, strict=True):
        half = Image.fromarray(frame).resize(between, Image.Resampling.BICUBIC)
        target[...] = np.asarray(half.resize(size, Image.Resampling.BICUBIC))
    return resized_NHWC


def resize_torch(frames_NHWC: Tensor, size: tuple[int, int]) -> Tensor:
    """`resize` on any device, by integer sums. Needs some 200 MiB beside the result, more for frames above 5 MP."""
    width, height = size
    _, old_height, old_width, channels = frames_NHWC.shape
    passes = [(2, width), (1, height)]
    if _height_first((old_width, old_height), size):
        passes.reverse()
    step = max(1, _CHUNK_VALUES // (max(height, old_height) * max(width, old_width) * channels))
    resized = []
    for part_NHWC in frames_NHWC.split(step):
        for side, length in passes:
            part_NHWC = _along(part_NHWC, side, length)
        resized.append(part_NHWC)
    return resized[0] if len(resized) == 1 else torch.cat(resized)


def _height_first(old_size: tuple[int, int], size: tuple[int, int]) -> bool:
    lost_width, lost_height = (old - new for old, new in zip(old_size, size, strict=True))
    return lost_height > max(0, 2 * lost_width)


def _along(frames_NHWC: Tensor, side: int, length: int) -> Tensor:
    """Frames with dimension `side` brought to `length`."""
    old_length = frames_NHWC.shape[side]
    if old_length == length:
        return frames_NHWC
    positions_KM, weights_KM = (torch.from_numpy(table).to(frames_NHWC.device) for table in _taps(old_length, length))
    shape = [1, 1, 1, 1]
    shape[side] = length
    sums_NHWC: Tensor | None = None
    for positions_M, weights_M in zip(positions_KM, weights_KM, strict=True):
        term_NHWC = frames_NHWC.index_select(side, positions_M).to(torch.int32).mul_(weights_M.view(shape))
        sums_NHWC = term_NHWC if sums_NHWC is None else sums_NHWC.add_(term_NHWC)
    assert sums_NHWC is not None, "a side has at least one tap"
    rounded_NHWC = sums_NHWC.add_(1 << (_FRACTION_BITS - 1)).bitwise_right_shift_(_FRACTION_BITS)
    return rounded_NHWC.clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=64)
def _taps(old_length: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(int64[K, M] source positions, int32[K, M] weights) of every output pixel; unused taps weigh nothing.

    The kernel is stretched by the factor the side shrinks by, cut off at the borders, and its weights made to sum to
    one before they are rounded. Sums run tap by tap, in Pillow's order, since the last bit may depend on it.
    """
    scale = old_length / length
    stretch = max(scale, 1.0)
    radius = _RADIUS * stretch
    centers_M = (np.arange(length) + 0.5) * scale
    first_M = np.maximum((centers_M - radius + 0.5).astype(np.int64), 0)
    end_M = np.minimum((centers_M + radius + 0.5).astype(np.int64), old_length)
    positions_KM = first_M + np.arange(2 * math.ceil(radius) + 1)[:, None]
    inside_KM = positions_KM < end_M
    weights_KM = np.where(inside_KM, _bicubic((positions_KM - centers_M + 0.5) * (1.0 / stretch)), 0.0)
    total_M = np.zeros(length)
    for weights_M in weights_KM:
        total_M += weights_M
    scaled_KM = weights_KM / total_M * (1 << _FRACTION_BITS)
    rounded_KM = np.trunc(scaled_KM + np.copysign(0.5, scaled_KM)).astype(np.int32)
    return np.where(inside_KM, positions_KM, 0), rounded_KM


def _bicubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    a = _SHARPNESS
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
    far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
