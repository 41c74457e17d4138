"""Benchmarks and `vamba ask` decode in processes without secrets, network or endless time, as an ingest does."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipelines.evaluation import confined, decoding
from pipelines.evaluation.ask import AskConfig, plan_ask
from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip, clip_pixels
from pipelines.evaluation.decoding import UnreadableVideoError, decoded_pixels
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.ingest.requests import requests_of
from pipelines.ingest.types import DecodeRequest, IngestError, Location
from tests.pipelines.ingest.media import make_video
from vamba.data.sampling import FrameSampling


def report(request: DecodeRequest) -> list[bytes]:
    """In a process of the pool: what it may do."""
    import resource
    import socket

    try:
        socket.socket()
    except PermissionError:
        names = (resource.RLIMIT_FSIZE, resource.RLIMIT_DATA, resource.RLIMIT_CORE)
        files, data, cores = (resource.getrlimit(name)[1] for name in names)
        raise IngestError("told", f"no socket, {files} {data > 0} {cores}") from None
    raise IngestError("told", "a socket")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    return make_video(tmp_path / "a.mp4", seconds=12, size="96x64", g=10)


def plan(film: Path) -> object:
    return plan_ask(AskConfig(model="m", video=str(film), questions=("q",), sampling=FrameSampling(fps=10)))


def test_the_kept_decoder_has_no_secrets(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hidden")
    confined._decoder.cache_clear()
    assert confined.probe(Location(uri=str(film))).codec == "h264"
    child = confined._decoder()._child
    assert child is not None and "hidden" not in psutil.Process(child.pid).environ().values()
    with pytest.raises(IngestError, match="no file"):
        confined.probe(Location(uri=str(film.with_name("none.mp4"))))


def test_both_ways_give_the_same_pictures(film: Path) -> None:
    planned = plan(film)
    one, two = (np.concatenate(list(decoded_pixels(planned, 95, count))) for count in (1, 2))  # type: ignore[arg-type]
    assert len(requests_of(planned, 95)) >= 1 and one.shape[0] == 120  # type: ignore[arg-type]
    assert np.array_equal(one, two)


def test_a_process_of_the_pool_is_confined(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (request, *_) = requests_of(plan(film), 95)  # type: ignore[arg-type]
    monkeypatch.setattr(decoding, "_decoded_in_the_pool", report)
    with pytest.raises(IngestError, match=r"no socket, 1048576 True 0"):
        list(decoding._in_processes([request, request], 2))


def test_a_hang_is_an_unreadable_video(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    pipe = film.with_name("pipe.mp4")
    os.mkfifo(pipe)
    monkeypatch.setattr(confined, "_SEGMENT_LIMIT_S", 0.5)
    (request, *_) = requests_of(plan(film), 95)  # type: ignore[arg-type]
    from dataclasses import replace

    with pytest.raises(UnreadableVideoError, match="decoder_timeout"):
        decoding._decoded(replace(request, uri=str(pipe)))


def test_a_relative_name_is_found_from_any_folder(film: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kept decoder was started in another working directory."""
    confined.probe(Location(uri=str(film)))
    monkeypatch.chdir(film.parent)
    shown = ShownClip(id="c", clip=Clip(path="a.mp4"), frames=FrameRule(num_frames=4, shortest_edge=0, longest_edge=0))
    with contextlib.closing(clip_pixels(shown, num_processes=1).pieces) as pieces:
        assert sum(len(piece) for piece in pieces) == 4
