"""Pixels are normalised once, wherever they are, to the numbers that the processor has always made."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vamba.data.frames import FrameProcessing, frames_to_patches, patchify
from vamba.data.normalise import normalise_patches
from vamba.model.config import VisionConfig
from vamba.model.vision import PatchEmbed

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FRAMES = np.random.default_rng(0).integers(0, 256, (4, 56, 84, 3), dtype=np.uint8)


def test_every_value_of_every_channel() -> None:
    values = np.tile(np.arange(256, dtype=np.uint8), 3)
    expected = (np.arange(256) / 255 - np.array(MEAN)[:, None]) / np.array(STD)[:, None]
    normalised = normalise_patches(torch.from_numpy(values)[None])
    assert normalised.dtype == torch.float32
    np.testing.assert_allclose(normalised[0].numpy(), expected.ravel(), atol=1e-6)


def test_pixels_are_left_as_they_were() -> None:
    pixels = torch.arange(12, dtype=torch.uint8)[None]
    normalise_patches(pixels)
    assert pixels.tolist() == [list(range(12))]


def test_no_patches() -> None:
    assert normalise_patches(torch.zeros(0, 1176, dtype=torch.uint8)).shape == (0, 1176)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_tower_takes_pixels_and_normalised_patches_alike(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(VisionConfig()).to(dtype)
    pixels, _ = frames_to_patches(FRAMES, FrameProcessing())
    floats, _ = patchify(FRAMES, FrameProcessing())
    assert embed(torch.from_numpy(pixels)).equal(embed(torch.from_numpy(floats)))
