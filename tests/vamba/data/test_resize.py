"""The device's resize against Pillow's: equal bits for every pair of sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from vamba.data import resize as resizing
from vamba.data.resize import resize, resize_pillow, resize_torch

SIDE = st.one_of(st.integers(1, 8), st.integers(1, 90), st.integers(1, 500))
"""Pixels; small sides make large factors."""


def noise(seed: int, frames: int, height: int, width: int, *, extreme: bool) -> np.ndarray:
    """Random pixels; `extreme` ones are black or white, and overshoot on both ends."""
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (frames, height, width, 3), dtype=np.uint8)
    return np.where(pixels > 127, np.uint8(255), np.uint8(0)) if extreme else pixels


def by_pillow(frames: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    return np.stack([np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.BICUBIC)) for frame in frames])


@settings(max_examples=400, deadline=None)
@given(old=st.tuples(SIDE, SIDE), new=st.tuples(SIDE, SIDE), seed=st.integers(0, 1 << 32), extreme=st.booleans())
def test_equal_to_pillow(old: tuple[int, int], new: tuple[int, int], seed: int, extreme: bool) -> None:
    frames = noise(seed, 1, old[1], old[0], extreme=extreme)
    expected = by_pillow(frames, new)
    np.testing.assert_array_equal(resize_torch(torch.from_numpy(frames), new).numpy(), expected)
    np.testing.assert_array_equal(resize_pillow(frames, new), expected)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((640, 360), (644, 364)),
        ((640, 360), (480, 270)),
        ((480, 270), (476, 280)),
        ((1920, 1080), (308, 168)),
        ((100, 60), (112, 56)),  # the height shrinks, the width grows: Pillow takes the height first
        ((60, 100), (56, 112)),
        ((1, 1), (56, 56)),
        ((1, 700), (1, 3)),
        ((12, 2800), (12, 28)),
        ((2800, 14), (28, 14)),
        ((3000, 2000), (1, 1)),
        ((40, 28), (40, 28)),
    ],
)
@pytest.mark.parametrize("extreme", [False, True])
def test_equal_to_pillow_at_sizes_that_occur(old: tuple[int, int], new: tuple[int, int], extreme: bool) -> None:
    frames = noise(7, 2, old[1], old[0], extreme=extreme)
    expected = by_pillow(frames, new)
    np.testing.assert_array_equal(resize_torch(torch.from_numpy(frames), new).numpy(), expected)
    np.testing.assert_array_equal(resize(frames, new), expected)
    np.testing.assert_array_equal(resize(torch.from_numpy(frames), new).numpy(), expected)


def test_many_frames_are_resized_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(3, 7, 30, 40, extreme=False)
    whole = resize_torch(torch.from_numpy(frames), (56, 28))
    monkeypatch.setattr(resizing, "_CHUNK_VALUES", 2 * 30 * 56 * 3)
    assert resize_torch(torch.from_numpy(frames), (56, 28)).equal(whole)


def test_frames_that_are_views_are_read_in_place() -> None:
    frames = noise(4, 4, 40, 60, extreme=False)
    flipped = frames[::2, :, ::-1]
    np.testing.assert_array_equal(resize(flipped, (56, 28)), by_pillow(np.ascontiguousarray(flipped), (56, 28)))
    tensor = torch.from_numpy(frames).transpose(1, 2)
    expected = by_pillow(np.ascontiguousarray(frames.transpose(0, 2, 1, 3)), (28, 56))
    np.testing.assert_array_equal(resize_torch(tensor, (28, 56)).numpy(), expected)


@pytest.mark.gpu
def test_the_gpu_makes_what_pillow_makes() -> None:
    for old, new in [((640, 360), (644, 364)), ((1920, 1080), (308, 168)), ((100, 60), (112, 56))]:
        frames = noise(5, 3, old[1], old[0], extreme=True)
        resized = resize(torch.from_numpy(frames).cuda(), new)
        assert resized.device.type == "cuda"
        np.testing.assert_array_equal(resized.cpu().numpy(), by_pillow(frames, new))
