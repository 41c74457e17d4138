"""The frames of a clip: by number, within its part, from files and from pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip, clip_pixels, part_of
from pipelines.evaluation.decoding import UnreadableVideoError
from pipelines.evaluation.protocols.recipe import FrameRule
from tests.pipelines.ingest.media import make_video


def frames(clip: Clip, num_frames: int) -> np.ndarray:
    rule = FrameRule(num_frames=num_frames, shortest_edge=28, longest_edge=56)
    shown = clip_pixels(ShownClip(id="c", clip=clip, frames=rule), num_processes=1)
    pixels = np.concatenate(list(shown.pieces))
    assert len(pixels) == shown.num_frames
    return pixels


def test_a_part_begins_at_the_frame_nearest_to_its_start() -> None:
    whole = Clip(path="v")
    assert part_of(100, whole, 25.0) == range(100)
    assert part_of(100, Clip(path="v", start_s=1.02, end_s=2.0), 25.0) == range(26, 51)
    assert part_of(100, Clip(path="v", start_s=3.0, end_s=60.0), 25.0) == range(75, 100)
    assert part_of(9, Clip(path="v", start_s=0.0, end_s=2.0), 3.0, first_number=1) == range(0, 6)
    with pytest.raises(UnreadableVideoError, match="100 frames, 25 a second, and none from 9"):
        part_of(100, Clip(path="v", start_s=9.0, end_s=10.0), 25.0)


def test_a_part_of_a_video_shows_the_frames_that_the_whole_has_there(tmp_path: Path) -> None:
    path = str(make_video(tmp_path / "v.mp4", seconds=2, fps=10, size="64x48"))
    whole = frames(Clip(path=path), 512)
    part = frames(Clip(path=path, start_s=0.5, end_s=1.2), 512)
    assert whole.shape == (20, 48, 64, 3), "all frames of a short video, as large as they are"
    np.testing.assert_array_equal(part, whole[5:13])
    np.testing.assert_array_equal(frames(Clip(path=path, start_s=0.5, end_s=1.2), 3), whole[[6, 8, 11]])


def test_pictures_of_a_folder_are_counted_from_one(tmp_path: Path) -> None:
    for number in range(1, 10):
        pixels = np.full((32, 32, 3), number * 20, np.uint8)
        (tmp_path / f"{number:05d}.jpg").write_bytes(simplejpeg.encode_jpeg(pixels, quality=95))
    shown = frames(Clip(path=str(tmp_path), pictures_per_s=3, start_s=1.0, end_s=2.0), 512)
    assert [round(float(frame.mean()) / 20) for frame in shown] == [3, 4, 5, 6]


def test_what_cannot_be_shown_says_why(tmp_path: Path) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    (tmp_path / "empty").mkdir()
    for clip, reason in (
        (Clip(path=str(tmp_path / "broken.mp4")), "can't be read as a video"),
        (Clip(path=str(tmp_path / "none.mp4")), "there is no file"),
        (Clip(path=str(tmp_path / "empty"), pictures_per_s=3), "holds no pictures"),
    ):
        with pytest.raises(UnreadableVideoError, match=reason):
            frames(clip, 4)
