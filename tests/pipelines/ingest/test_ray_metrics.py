"""What Prometheus is told of an ingest, and that a person is told the same as before."""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.progress import IngestStatus
from pipelines.ingest.ray_metrics import METRICS, RayProgress


class Heard:
    def __init__(self) -> None:
        self.told: list[object] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    def update(self, status: IngestStatus) -> None:
        self.told.append(status)


def _config(out: str) -> IngestConfig:
    return IngestConfig(sources=("v",), out=out, max_failure_fraction=0.25)


def _status(done: int, failed: int, *, of: int | None = 10, elapsed_s: float = 20.0) -> IngestStatus:
    return IngestStatus(
        stage="decode", videos_done=done, num_videos=of, media_s=60.0 * done, num_failed=failed, elapsed_s=elapsed_s
    )


def test_values_follow_the_status_and_stand_in_the_table(tmp_path: Path) -> None:
    progress = RayProgress(Heard(), _config(str(tmp_path)))
    values = progress.values(_status(4, 1), now=1000.0)
    assert values == {
        "vamba_ingest_videos_planned": 10,
        "vamba_ingest_videos_done": 4,
        "vamba_ingest_videos_failed": 1,
        "vamba_ingest_failure_budget_ratio": 0.25,
        "vamba_ingest_media_seconds": 240,
        "vamba_ingest_media_seconds_per_second": 12,
        "vamba_ingest_decoding": 1,
        "vamba_ingest_last_progress_timestamp_seconds": 1000,
    }
    names = [metric.name for metric in METRICS]
    assert set(values) == set(names) and len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


def test_the_time_of_the_last_progress_stands_still_while_nothing_gets_done(tmp_path: Path) -> None:
    progress = RayProgress(Heard(), _config(str(tmp_path)))
    name = "vamba_ingest_last_progress_timestamp_seconds"
    assert progress.values(_status(4, 1), now=1000.0)[name] == 1000
    assert progress.values(_status(4, 1, elapsed_s=50.0), now=1030.0)[name] == 1000
    assert progress.values(_status(5, 1), now=1060.0)[name] == 1060


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    values = RayProgress(Heard(), _config(str(tmp_path))).values(_status(0, 0, of=None, elapsed_s=0.0), now=1.0)
    assert not {"vamba_ingest_videos_planned", "vamba_ingest_media_seconds_per_second"} & set(values)


def test_it_passes_on_what_it_hears_and_needs_no_ray(tmp_path: Path) -> None:
    inner = Heard()
    progress = RayProgress(inner, _config(str(tmp_path)))
    progress.note("a note")
    progress.update(_status(1, 0))
    assert inner.told == ["a note", _status(1, 0)]


def test_the_label_holds_no_password() -> None:
    progress = RayProgress(Heard(), _config("s3://me:secret@bucket/videos"))
    assert progress._dataset == "s3://REDACTED@bucket/videos"
