"""A source that is changed while it is ingested becomes a failure, and never a sample with another file's digest."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.types import PlannedVideo
from pipelines.ingest.unchanged import changed
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.packing import plan_here


@pytest.fixture
def planned(tmp_path: Path) -> PlannedVideo:
    path = make_video(tmp_path / "film.mp4", seconds=2)
    video = plan_here(path, IngestConfig(sources=("-",), out=str(tmp_path / "out")))
    return replace(video, source=replace(video.source, mtime_ns=path.stat().st_mtime_ns))


def test_a_file_as_it_was_listed_is_none(planned: PlannedVideo) -> None:
    assert changed([planned]) == {}


def test_another_size_is_a_change(planned: PlannedVideo) -> None:
    with open(planned.source.uri, "ab") as file:
        file.write(b"more")
    failure = changed([planned])["film"]
    assert (failure.stage, failure.error_class) == ("pack", "changed")
    assert str(planned.source.size_bytes) in failure.message and "--retry-failures" in failure.message


def test_another_time_is_a_change(planned: PlannedVideo) -> None:
    os.utime(planned.source.uri, ns=(0, planned.source.mtime_ns + 1_000_000_000))
    assert "time of last change" in changed([planned])["film"].message


def test_what_cannot_be_compared_is_none(planned: PlannedVideo) -> None:
    unknown_time = replace(planned, source=replace(planned.source, mtime_ns=0))
    os.utime(planned.source.uri, ns=(0, 0))
    assert changed([unknown_time]) == {}
    os.unlink(planned.source.uri)
    assert changed([planned]) == {}
