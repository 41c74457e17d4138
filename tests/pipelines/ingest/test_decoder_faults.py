"""A decoder that stops, dies or grows costs its segment a second try, and its video if that fails too: nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.ingest import job, sandbox, stages
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import Location
from pipelines.manifest_io import read_failures, read_manifest
from tests.pipelines.ingest.media import make_video

MAX_RSS_BYTES = 1 << 30


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    for name, seconds in (("a", 2), ("b", 6), ("c", 2)):
        make_video(tmp_path / f"videos/{name}.mp4", seconds=seconds, size="64x48")
    return tmp_path / "videos"


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderProcess]:
    """The decoder of all tasks, which run here, one after the other."""
    process = DecoderProcess(max_rss_bytes=MAX_RSS_BYTES)
    monkeypatch.setattr(sandbox, "_POLL_S", 0.05)
    monkeypatch.setattr(stages, "_worker_decoder", lambda _: process)
    monkeypatch.setattr(job, "ray_session", lambda *_: nullcontext())
    monkeypatch.setattr(job, "run_stage", lambda tasks, work: map(work, tasks))
    yield process
    process.close()


def ingest(videos: Path, out: Path) -> None:
    run_ingest(
        IngestConfig(sources=(str(videos),), out=str(out), segment_cost_s=1e-6, max_failure_fraction=1), Silent()
    )


def spoil(monkeypatch: pytest.MonkeyPatch, times: int, what: Callable[[DecoderProcess], None]) -> list[str]:
    """Does something to the decoder with each of the first requests for a segment in the middle of b.mp4."""
    spoiled: list[str] = []
    original = DecoderProcess._call

    def call(process: DecoderProcess, kind: str, arguments: tuple[Any, ...], location: Location, limit_s: float) -> Any:
        is_meant = kind.startswith("decode") and location.uri.endswith("b.mp4") and arguments[0].target_pts[0] > 0
        if not is_meant or len(spoiled) == times:
            return original(process, kind, arguments, location, limit_s)
        spoiled.append(kind)
        process._running_child()
        what(process)
        try:
            return original(process, kind, arguments, location, 0.5)
        finally:
            process._max_rss_bytes = MAX_RSS_BYTES

    monkeypatch.setattr(DecoderProcess, "_call", call)
    return spoiled


def send(number: int) -> Callable[[DecoderProcess], None]:
    def to(process: DecoderProcess) -> None:
        assert process._child is not None
        os.kill(process._child.pid, number)

    return to


def shrink_limit(process: DecoderProcess) -> None:
    """Any memory is too much, for a request that takes long enough to be looked at."""
    assert process._child is not None
    os.kill(process._child.pid, signal.SIGSTOP)
    process._max_rss_bytes = 1


SPOILERS = {
    "decoder_timeout": send(signal.SIGSTOP),
    "decoder_crash": send(signal.SIGKILL),
    "decoder_memory": shrink_limit,
}


@pytest.mark.parametrize("error_class", ["decoder_timeout", "decoder_crash"])
def test_spoiled_once_it_is_tried_again(
    error_class: str, videos: Path, tmp_path: Path, decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingest(videos, tmp_path / "undisturbed")
    spoiled = spoil(monkeypatch, 1, SPOILERS[error_class])
    ingest(videos, tmp_path / "out")
    assert spoiled == ["decode"]
    assert read_failures(tmp_path / "out") == ()
    assert read_manifest(tmp_path / "out").digest == read_manifest(tmp_path / "undisturbed").digest


@pytest.mark.parametrize("error_class", SPOILERS)
def test_spoiled_again_its_video_fails_alone(
    error_class: str, videos: Path, tmp_path: Path, decoder: DecoderProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoiled = spoil(monkeypatch, 2, SPOILERS[error_class])
    ingest(videos, tmp_path / "out")
    assert spoiled == ["decode", "decode_sequentially"]
    (failure,) = read_failures(tmp_path / "out")
    assert (failure.stage, failure.id, failure.error_class) == ("decode", "b", error_class)
    assert failure.command.startswith("ffmpeg ") and "b.mp4" in failure.command
    assert sorted(row.id for row in read_manifest(tmp_path / "out").samples) == ["a", "c"]
