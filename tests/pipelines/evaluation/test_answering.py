"""A video goes to the model in pieces of whole frame pairs, and its frames are all of one size."""

from __future__ import annotations

import numpy as np
import pytest
import simplejpeg

from pipelines.evaluation.answering import video_pieces
from pipelines.evaluation.decoding import stored_pixels
from vamba.data.frames import FrameProcessing, frames_to_patches
from vamba.data.stored_frames import JpegFrames

PROCESSING = FrameProcessing(min_pixels=784)


def jpegs(number: int, width: int = 60, height: int = 60, seed: int = 0) -> list[bytes]:
    frames = np.random.default_rng(seed).integers(0, 255, (number, height, width, 3), np.uint8)
    return [simplejpeg.encode_jpeg(frame, quality=90, colorspace="RGB") for frame in frames]


def test_pieces_add_up_to_the_whole() -> None:
    files = jpegs(131)
    pieces = list(video_pieces(stored_pixels(JpegFrames(files)), PROCESSING, "cpu"))
    assert [grid for _, grid in pieces] == [(32, 4, 4), (32, 4, 4), (1, 4, 4)]
    frames = np.stack([simplejpeg.decode_jpeg(file, colorspace="RGB") for file in files[:130]])
    whole, grid = frames_to_patches(frames, PROCESSING)
    joined = np.concatenate([np.asarray(patches) for patches, _ in pieces])
    assert grid == (65, 4, 4)
    np.testing.assert_array_equal(joined, np.asarray(whole))


def test_one_frame_is_shown_twice() -> None:
    ((_, grid),) = video_pieces(stored_pixels(JpegFrames(jpegs(1))), PROCESSING, "cpu")
    assert grid == (1, 4, 4)


@pytest.mark.parametrize("at", [64, 70])
def test_a_change_of_size_is_refused(at: int) -> None:
    with pytest.raises(ValueError, match="size|pixels"):
        frames = JpegFrames(jpegs(at) + jpegs(132 - at, width=61))
        list(video_pieces(stored_pixels(frames), PROCESSING, "cpu"))
