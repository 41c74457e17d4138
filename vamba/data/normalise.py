"""Pixels in, the numbers the vision tower was trained on out: the one place that knows their mean and deviation.

Patches travel as uint8 (cache, batch, copy to the device) and are normalised where the tower runs.
Shapes: P patches, C = channels * values per channel.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

IMAGE_MEAN = (0.48145466, 0.4578275, 0.40821073)
IMAGE_STD = (0.26862954, 0.26130258, 0.27577711)
"""Red, green and blue, of values from 0 to 1: CLIP's, with which every Qwen2-VL was trained."""


def normalise_patches(patches_PC: Tensor) -> Tensor:
    """uint8[P, C] -> float32[P, C], (value / 255 - mean) / std of each channel, on the same device."""
    normalised_PC = patches_PC.to(torch.float32)
    channels = normalised_PC.unflatten(1, (len(IMAGE_MEAN), -1)).unbind(1)
    for channel, mean, std in zip(channels, map(np.float32, IMAGE_MEAN), map(np.float32, IMAGE_STD), strict=True):
        # Numbers, not tensors: a tensor would have to be copied to the device, and the host would wait for that.
        channel.mul_(float(1 / (255 * std))).sub_(float(mean / std))
    return normalised_PC
