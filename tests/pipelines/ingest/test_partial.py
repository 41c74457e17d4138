"""`--partial`: what can be trusted of a damaged video is kept, at its own times; without it the video is a failure."""

from __future__ import annotations

import io
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.config import IngestConfig
from tests.pipelines.ingest.in_process import ingested, sample_of, source
from tests.pipelines.ingest.media import make_video
from vamba.data.sample import Sample
from vamba.data.sampling import FrameSampling

SETTINGS: dict[str, Any] = {"sampling": FrameSampling(fps=5), "segment_cost_s": 1e-9}


def cut(path: Path) -> None:
    os.truncate(path, int(path.stat().st_size * 0.6))


def damage_inside(path: Path) -> None:
    data = bytearray(path.read_bytes())
    start = len(data) // 2
    data[start : start + 4000] = random.Random(1).randbytes(4000)
    path.write_bytes(data)


def drop_inside(path: Path) -> None:
    """Some bytes are missing, a whole number of transport packets."""
    data = path.read_bytes()
    start = len(data) // 2 // 188 * 188
    path.write_bytes(data[:start] + data[start + 188 * 20 :])


OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}
HEVC = {"x265-params": "log-level=error:keyint=12:bframes=3"}
CASES: dict[str, tuple[str, dict[str, Any], Callable[[Path], None], str]] = {
    "mkv-cut": ("a.mkv", {"bf": 2}, cut, "truncated"),
    "mp4-faststart-cut": ("a.mp4", {"bf": 2, "movflags": "faststart"}, cut, "truncated"),
    "fragments-cut": ("a.mp4", {"movflags": "frag_keyframe+empty_moov"}, cut, "truncated"),
    "avi-cut": ("a.avi", {"vcodec": "mpeg4"}, cut, "truncated"),
    "mp4-damaged": ("a.mp4", {"bf": 2, "movflags": "faststart"}, damage_inside, "corrupt"),
    "mp4-open-gops-damaged": ("a.mp4", {"movflags": "faststart", **OPEN_GOPS}, damage_inside, "corrupt"),
    "mkv-damaged": ("a.mkv", {"bf": 2}, damage_inside, "corrupt"),
    "ts-with-a-gap": ("a.ts", {"bf": 2}, drop_inside, "corrupt"),
    "hevc-damaged": ("a.mp4", {"vcodec": "libx265", "movflags": "faststart", **HEVC}, damage_inside, "corrupt"),
    "mpeg4-damaged": ("a.mp4", {"vcodec": "mpeg4", "movflags": "faststart"}, damage_inside, "corrupt"),
    "vp9-damaged": ("a.webm", {"vcodec": "libvpx-vp9", "deadline": "realtime"}, damage_inside, "corrupt"),
}


def whole_and_damaged(name: str, folder: Path) -> tuple[Path, Path]:
    file_name, options, harm, _ = CASES[name]
    whole = make_video(folder / f"whole-{file_name}", seconds=10, size="160x120", **{"g": 20, **options})
    damaged = folder / file_name
    damaged.write_bytes(whole.read_bytes())
    harm(damaged)
    return whole, damaged


@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_is_what_the_whole_shows(name: str, tmp_path: Path) -> None:
    error_class = CASES[name][3]
    whole, damaged = whole_and_damaged(name, tmp_path)
    (commit,), failures = ingested([source(damaged, "video")], tmp_path / "kept", partial=True, **SETTINGS)
    (row,) = commit.samples
    (failure,) = failures
    sample = sample_of(row, tmp_path / "kept")
    partial = sample.probe["partial"]
    assert failure.id == sample.id and failure.error_class == f"partial_{error_class}" and failure.command
    assert partial["class"] == error_class and partial["reason"] in failure.message
    assert row.num_frames == len(sample.timestamps_ns) > 5

    (commit,), none = ingested([source(whole, "video")], tmp_path / "whole", partial=True, **SETTINGS)
    assert not none
    expected = sample_of(commit.samples[0], tmp_path / "whole")
    assert "partial" not in expected.probe
    assert len(sample.timestamps_ns) < len(expected.timestamps_ns)
    check_kept(sample, expected)


def check_kept(sample: Sample, expected: Sample) -> None:
    """Each kept frame shows what the whole shows at its time."""
    frames = dict(zip(expected.timestamps_ns, expected.frames, strict=True))
    for time, frame in zip(sample.timestamps_ns, sample.frames, strict=True):
        assert time in frames
        difference = np.abs(pixels(frame) - pixels(frames[time])).mean()
        assert difference < 0.5, (time, difference)


def pixels(jpeg: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)


@pytest.mark.parametrize("name", CASES)
def test_without_it_a_damaged_video_is_a_failure(name: str, tmp_path: Path) -> None:
    _, damaged = whole_and_damaged(name, tmp_path)
    commits, failures = ingested([source(damaged, "video")], tmp_path / "out", **SETTINGS)
    assert not any(commit.samples for commit in commits)
    assert [failure.error_class for failure in failures] == [CASES[name][3]]


def test_a_video_of_which_nothing_decodes_stays_a_failure(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.mp4", seconds=2, g=500, movflags="faststart")
    data = bytearray(film.read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = random.Random(1).randbytes(len(data) - start)
    film.write_bytes(data)
    commits, failures = ingested([source(film, "video")], tmp_path / "out", partial=True, **SETTINGS)
    assert not any(commit.samples for commit in commits) and [failure.error_class for failure in failures] == [
        "corrupt"
    ]


def test_a_good_video_is_the_same_with_and_without(tmp_path: Path) -> None:
    film = source(make_video(tmp_path / "a.mp4", seconds=3, bf=2), "video")
    shards = [ingested([film], tmp_path / str(kept), partial=kept)[0][0].shard for kept in (True, False)]
    assert shards[0] == shards[1]


def test_what_was_staged_without_it_is_not_continued_with_it() -> None:
    plain, partial = (IngestConfig(sources=("-",), out="-", partial=kept) for kept in (False, True))
    assert plain.digest == partial.digest and plain.work_digest != partial.work_digest
