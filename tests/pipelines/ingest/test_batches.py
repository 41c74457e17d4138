"""Batches: their shards are those of one pass, whatever their size, and whatever is killed in between."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.ingest import job
from pipelines.ingest.batches import shards_of_batch, take_batch
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request
from pipelines.ingest.job import run_ingest
from pipelines.ingest.plan import estimated_bytes, plan_shards
from pipelines.ingest.progress import IngestStatus, Silent
from pipelines.ingest.staging import Staging
from pipelines.ingest.store import StoredSource
from pipelines.ingest.summary import IngestSummary
from pipelines.ingest.types import PlannedVideo, Segment, VideoSource
from pipelines.manifest_io import read_failures, read_manifest
from tests.pipelines.ingest.media import make_video


def source(number: int, size_bytes: int = 1) -> VideoSource:
    name = f"v{number:04d}"
    return VideoSource(id=name, uri=f"/{name}.mp4", size_bytes=size_bytes, mtime_ns=0, split=None, conversations=())


def planned(number: int, num_frames: int) -> PlannedVideo:
    segment = Segment(name=f"v{number:04d}.000000", key_pts=0, key_dts=0, target_pts=(0,), cost_s=1.0)
    return PlannedVideo(
        source=source(number),
        digest="sha256:0",
        split="train",
        codec="h264",
        stream_index=0,
        time_base=Fraction(1, 1000),
        store="jpeg",
        width=64,
        height=48,
        orientation="",
        duration_ns=1,
        frame_bytes=500,
        timestamps_ns=tuple(range(num_frames)),
        probe={},
        segments=(segment,),
    )


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), max_size=30),
    cuts=st.lists(st.integers(1, 8), min_size=1, max_size=30),
    target_frames=st.integers(1, 30),
    first=st.integers(0, 3),
)
def test_shards_of_batches_are_those_of_one_pass(
    lengths: list[int], cuts: list[int], target_frames: int, first: int
) -> None:
    videos = [planned(number, length) for number, length in enumerate(lengths)]
    target_bytes = estimated_bytes(planned(0, target_frames))
    shards, carried, position, batch = [], (), 0, 0
    while position < len(videos):
        end = position + cuts[batch % len(cuts)]
        some, carried = shards_of_batch(
            [*carried, *videos[position:end]], first + len(shards), target_bytes, is_last=end >= len(videos)
        )
        shards += some
        position, batch = end, batch + 1
    assert not carried
    expected = plan_shards(videos, target_bytes)
    assert [shard.videos for shard in shards] == [shard.videos for shard in expected]
    assert [shard.name for shard in shards] == [f"shard-{first + n:06d}.tar" for n in range(len(expected))]


def test_a_batch_ends_at_its_number_or_size_and_holds_at_least_one() -> None:
    items = [
        StoredSource(source=source(number, size), problem=None, digest="")
        for number, size in enumerate([5, 5, 20, 1, -1, 1])
    ]
    assert len(take_batch(iter(items), 2, 100)) == 2
    assert len(take_batch(iter(items), 9, 12)) == 2
    assert len(take_batch(iter(items[2:]), 9, 12)) == 1
    assert len(take_batch(iter(items[3:]), 9, 12)) == 3
    assert take_batch(iter(()), 9, 12) == []


class Killed(BaseException):
    """Stands for SIGKILL."""


class Recorder(Silent):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.statuses: list[IngestStatus] = []
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def update(self, status: IngestStatus) -> None:
        self.statuses.append(status)


@pytest.fixture(scope="module", autouse=True)
def without_ray() -> Iterator[None]:
    """Tasks run here, one after the other: what is tested is which there are, and what becomes of them."""

    def run_stage(tasks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
        return map(work, tasks)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "run_stage", run_stage)
        patch.setattr(job, "ray_session", lambda *_: nullcontext())
        yield


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("media")
    for number in range(7):
        make_video(folder / f"v{number}.mp4", seconds=1 + number % 3)
    (folder / "v2-text.mp4").write_text("not a video")
    (folder / "z.tar").write_bytes(b"no tar" * 100)
    rows = [{"video": f"v{number}.mp4", "caption": f"Clip {number}."} for number in (0, 3, 3)]
    (folder / "captions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def ingest(out: Path, *sources: Path, request: Request | None = None, **settings: Any) -> IngestSummary:
    progress = settings.pop("progress", Silent())
    config = IngestConfig(
        sources=tuple(map(str, sources)),
        out=str(out),
        conversations=str(sources[0] / "captions.jsonl"),
        target_shard_bytes=15_000,
        max_failure_fraction=1.0,
        **settings,
    )
    return run_ingest(config, progress, request)


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(media: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dataset of one batch."""
    out = tmp_path_factory.mktemp("whole") / "out"
    ingest(out, media, media / "z.tar")
    assert len(read_manifest(out).shards) == 3
    assert {row.id: (row.stage, row.error_class) for row in read_failures(out)} == {
        "v2-text": ("probe", "not_a_video"),
        "z": ("sources", "bad_tar"),
    }
    return out


def test_batches_give_the_bytes_of_one_and_tell_progress_over_all(media: Path, whole: Path, tmp_path: Path) -> None:
    progress = Recorder()
    summary = ingest(tmp_path / "out", media, media / "z.tar", batch_videos=2, progress=progress)
    assert digests(tmp_path / "out") == digests(whole)
    assert (summary.num_sources, summary.num_videos, summary.num_shards) == (9, 7, 3)
    assert summary.failures == {"bad_tar": 1, "not_a_video": 1}
    assert (summary.found.num_videos, summary.found.num_unusable) == (8, 1)
    for stage in ("probe", "decode"):
        done = [(status.videos_done, status.num_videos) for status in progress.statuses if status.stage == stage]
        assert done == sorted(done) and done[-1] == (9, 9)
    assert progress.statuses[-1].num_failed == 2
    assert progress.notes[0] == "found 8 videos"


@pytest.mark.parametrize("moment", ["planned", "decoded", "recorded", "cleaned"])
@pytest.mark.parametrize("then", [1, 100])
def test_a_kill_in_the_second_batch_changes_nothing(
    media: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str, then: int
) -> None:
    """The continuing run may use batches of another size."""
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        _kill_in_second_batch(patch, moment)
        with pytest.raises(Killed):
            ingest(out, media, media / "z.tar", batch_videos=4)
    assert not (out / "manifest.parquet").exists()
    summary = ingest(out, media, media / "z.tar", batch_videos=then)
    assert digests(out) == digests(whole)
    assert summary.num_segments_reused >= (1 if moment == "planned" else 2)


def _kill_in_second_batch(patch: pytest.MonkeyPatch, moment: str) -> None:
    where, name = {
        "planned": (job, "_decode"),
        "decoded": (job, "_decode"),
        "recorded": (Staging, "finish_batch"),
        "cleaned": (Staging, "finish_batch"),
    }[moment]
    original, calls = getattr(where, name), []

    def kill(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) < 2:
            return original(*arguments, **named)
        if moment == "recorded":
            patch.setattr(arguments[0].storage, "delete_tree", _raise)
        if moment != "planned":
            original(*arguments, **named)
        raise Killed

    patch.setattr(where, name, kill)


def _raise(*_: Any) -> None:
    raise Killed


def test_append_over_batches(media: Path, whole: Path, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, names in ((old, ("v0", "v3")), (new, ("v1", "v2-text", "v2", "v4", "v5", "v6"))):
        folder.mkdir()
        for name in names:
            shutil.copy(media / f"{name}.mp4", folder)
        (folder / "captions.jsonl").write_text("")
    outs = []
    for size in (1, 3, 100):
        out = tmp_path / f"out-{size}"
        ingest(out, old, batch_videos=size)
        summary = ingest(out, new, request=Request(append=True), batch_videos=size)
        assert (summary.version, summary.num_videos, summary.num_sources) == (2, 7, 8)
        outs.append(digests(out))
    assert outs[0] == outs[1] == outs[2]
