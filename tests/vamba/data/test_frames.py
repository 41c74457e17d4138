"""Frames become patches whose order and values can be followed by hand."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch

from vamba.data.frames import (
    FrameProcessing,
    decode_jpegs,
    frames_to_patches,
    num_video_tokens,
    output_size,
    patchify,
    stack_frames,
)

PLAIN = FrameProcessing(min_pixels=28 * 28)


def jpeg(pixels: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def noise(frames: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def test_rows_are_ordered_by_cell() -> None:
    frames = noise(4, 56, 84)
    patches, grid = patchify(frames, PLAIN)
    assert grid == (2, 4, 6)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    normalised = ((frames / 255 - mean) / std).astype(np.float32)
    row = 0
    for pair in range(2):
        for cell_y in range(2):
            for cell_x in range(3):
                for y in range(2):
                    for x in range(2):
                        top, left = 14 * (2 * cell_y + y), 14 * (2 * cell_x + x)
                        block = normalised[2 * pair : 2 * pair + 2, top : top + 14, left : left + 14]
                        np.testing.assert_allclose(patches[row], block.transpose(3, 0, 1, 2).ravel(), atol=1e-5)
                        row += 1
    assert row == len(patches)


def test_odd_last_frame_is_dropped_and_a_single_one_shown_twice() -> None:
    frames = noise(5, 28, 28)
    np.testing.assert_array_equal(patchify(frames, PLAIN)[0], patchify(frames[:4], PLAIN)[0])
    single, grid = patchify(frames[:1], PLAIN)
    assert grid == (1, 2, 2)
    np.testing.assert_array_equal(single, patchify(frames[[0, 0]], PLAIN)[0])


@pytest.mark.parametrize(("frames", "width", "height"), [(5, 90, 60), (1, 640, 360), (2, 28, 28), (3, 61, 200)])
def test_arrays_and_tensors_make_the_same_patches(frames: int, width: int, height: int) -> None:
    pixels = noise(frames, height, width)
    from_array, grid = frames_to_patches(pixels, PLAIN)
    from_tensor, same_grid = frames_to_patches(torch.from_numpy(pixels), PLAIN)
    assert isinstance(from_array, np.ndarray) and isinstance(from_tensor, torch.Tensor)
    assert from_array.dtype == np.uint8
    assert grid == same_grid
    np.testing.assert_array_equal(from_array, from_tensor.numpy())


def test_frames_given_one_by_one() -> None:
    frames = noise(3, 40, 30)
    np.testing.assert_array_equal(stack_frames(list(frames)), frames)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([], "no frames"),
        ([noise(1, 28, 30)[0], noise(1, 30, 28)[0]], "frame 1 is 28x30 pixels, the first is 30x28"),
        ([np.zeros((28, 28), np.uint8)], "frame 0 is uint8 .*grayscale"),
        ([np.zeros((28, 28, 4), np.uint8)], "frame 0 is uint8 .*transparent"),
        ([np.zeros((28, 28, 3), np.float32)], "frame 0 is float32"),
    ],
)
def test_frames_that_do_not_fit_are_named(images: list[np.ndarray], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        stack_frames(images)


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((2, 28, 28, 1), "grayscale or transparent pictures to RGB first"),
        ((2, 28, 28, 4), "grayscale or transparent pictures to RGB first"),
        ((28, 28, 3), r"a single picture is frames\[None\]"),
        ((0, 28, 28, 3), "at least one frame"),
    ],
)
def test_what_is_no_rgb_video_is_refused(shape: tuple[int, ...], text: str) -> None:
    pixels = np.zeros(shape, np.uint8)
    with pytest.raises(ValueError, match=text):
        frames_to_patches(pixels, PLAIN)
    with pytest.raises(ValueError, match=text):
        frames_to_patches(torch.from_numpy(pixels), PLAIN)


@pytest.mark.parametrize("frames", [1, 2, 3, 8])
@pytest.mark.parametrize(("width", "height"), [(640, 360), (100, 91), (28, 60)])
@pytest.mark.parametrize("cfg", [FrameProcessing(), PLAIN, FrameProcessing(longest_edge=96, shortest_edge=40)])
def test_planned_tokens_are_the_tokens_made(frames: int, width: int, height: int, cfg: FrameProcessing) -> None:
    patches, (t, h, w) = patchify(noise(frames, height, width), cfg)
    assert len(patches) == t * h * w == 4 * num_video_tokens(frames, width, height, cfg)
    assert output_size(width, height, cfg) == (14 * w, 14 * h)


def test_area_stays_within_its_bounds() -> None:
    width, height = output_size(1920, 1080, FrameProcessing(max_pixels=100_000))
    assert width * height <= 100_000
    assert width % 28 == height % 28 == 0


def test_decoding() -> None:
    frames = np.full((3, 32, 48, 3), [[[200, 30, 90]]], np.uint8)
    decoded = decode_jpegs([jpeg(frame) for frame in frames])
    assert decoded.shape == (3, 32, 48, 3)
    assert np.abs(decoded.astype(int) - frames).max() < 8


@pytest.mark.parametrize(
    ("files", "text"),
    [
        ([], "no frames"),
        ([b"not a jpeg"], "frame 0"),
        ([jpeg(noise(1, 32, 32)[0]), jpeg(noise(1, 32, 64)[0])], "frame 1"),
    ],
)
def test_what_cannot_be_decoded_is_named(files: list[bytes], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        decode_jpegs(files)


def test_options_are_checked() -> None:
    assert FrameProcessing.from_dict(PLAIN.to_dict()) == PLAIN
    with pytest.raises(ValueError, match="longest_egde"):
        FrameProcessing.from_dict({"longest_egde": 3})
    with pytest.raises(ValueError, match=r"frames\.min_pixels \(20000000\) is greater"):
        FrameProcessing(min_pixels=20_000_000)
    with pytest.raises(ValueError, match="uint8"):
        patchify(np.zeros((2, 28, 28, 3)), PLAIN)
