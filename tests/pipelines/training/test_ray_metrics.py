"""What Prometheus is told of a run: right after restarts, and really exported by Ray."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

import pytest

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.progress import IngestStatus, Silent
from pipelines.ingest.ray_metrics import RayProgress
from pipelines.training.config import TrainingConfig
from pipelines.training.json_lines import append_line
from pipelines.training.ray_metrics import METRICS, RayReporter, RunHealth
from pipelines.training.run_directory import RunDirectory, run_directory


def step(number: int, *, skipped: str | None = None) -> dict[str, object]:
    return {
        "step": number, "loss": 0.5, "grad_norm": 1.5, "learning_rate": 1e-3, "num_text_tokens": 100,
        "num_video_tokens": 300, "seconds": {"data": 0.5, "compute": 1.5}, "memory_bytes": 7, "mfu": 0.25,
        "time": 1000.0 + number, "skipped": skipped,
    }  # fmt: skip


def attempt(number: int, at: float) -> dict[str, object]:
    return {"event": "attempt_started", "rank": 0, "attempt": number, "time": at, "num_steps": 40}


def test_health_counts_a_replayed_step_once_as_work_and_a_skipped_one_never() -> None:
    health = RunHealth()
    for event in (attempt(1, 1000.0), {**attempt(1, 1001.0), "rank": 1}, attempt(2, 1010.0)):
        health.add_event(event)
    health.add_event({"event": "checkpoint_begun", "time": 1012.0, "step": 2})
    health.add_event({"event": "checkpoint_committed", "time": 1013.0, "step": 2})
    health.add_event({"event": "sample_unreadable", "time": 1012.0, "id": "a"})
    for record in (step(1), step(2), step(3), step(3), step(4, skipped="spike")):
        health.add_step(record)
    values = health.values(now=1020.0)
    assert values["vamba_train_goodput_ratio"] == pytest.approx(3 * 2.0 / 20)
    assert (values["vamba_train_replayed_steps"], values["vamba_train_skipped_steps"]) == (1, 1)
    assert (values["vamba_train_attempts"], values["vamba_train_steps_planned"]) == (2, 40)
    assert (values["vamba_train_checkpoint_age_seconds"], values["vamba_train_checkpoint_step"]) == (8, 2)
    assert values["vamba_train_video_tokens_per_second"] == 150
    assert values["vamba_train_data_wait_ratio"] == 0.25


def test_what_a_restart_repeats_is_counted_once() -> None:
    """Killed between a guard's rewind and the checkpoint of it, the run meets the same trouble again."""
    health = RunHealth()
    for _ in range(2):
        for record in (step(3), step(4, skipped="spike")):
            health.add_step(record)
        health.add_event({"event": "rewound", "time": 1012.0, "at": 4, "to": 2})
    values = health.values(now=1020.0)
    assert [values[f"vamba_train_{name}"] for name in ("skipped_steps", "rewinds", "replayed_steps")] == [1, 1, 2]


def test_the_age_of_a_checkpoint_is_the_work_that_a_crash_would_cost() -> None:
    health = RunHealth()

    def age(now: float) -> float:
        return health.values(now)["vamba_train_checkpoint_age_seconds"]

    health.add_event(attempt(1, 1000.0))
    assert age(9000.0) == 8000, "a run that never saves loses everything"
    health.add_event({"event": "checkpoint_begun", "time": 9000.0, "step": 2})
    health.add_event({"event": "checkpoint_failed", "time": 9001.0, "step": 2, "reason": "disk full"})
    assert age(9100.0) == 8100, "what could not be written is no checkpoint"
    assert health.values(9100.0)["vamba_train_checkpoint_step"] == 0
    health.add_event({"event": "checkpoint_begun", "time": 9200.0, "step": 3})
    health.add_event({"event": "checkpoint_committed", "time": 9260.0, "step": 3})
    assert age(9300.0) == 100 and health.values(9300.0)["vamba_train_checkpoint_step"] == 3
    health.add_event(attempt(2, 99000.0))
    assert age(99060.0) == 60, "a day in the queue was no work"


def test_a_run_that_is_taken_up_after_a_night_has_not_hung_all_night() -> None:
    health, name = RunHealth(), "vamba_train_last_step_timestamp_seconds"
    health.add_event({"event": "job_started", "time": 990.0})
    health.add_event(attempt(1, 1000.0))
    assert name not in health.values(now=1000.5), "another alert waits for the first step"
    health.add_step(step(4))
    assert health.values(now=1005.0)[name] == 1004.0
    health.add_event({"event": "job_started", "time": 40000.0})
    assert health.values(now=40100.0)[name] == 40000.0, "waits for machines"
    health.add_event(attempt(2, 40200.0))
    assert health.values(now=40300.0)[name] == 40200.0, "loads its checkpoint"
    health.add_step({**step(5), "time": 40350.0})
    assert health.values(now=40400.0)[name] == 40350.0


def test_what_is_not_known_is_left_out() -> None:
    assert set(RunHealth().values(now=5.0)) == {
        f"vamba_train_{name}"
        for name in ("attempts", "skipped_steps", "replayed_steps", "rewinds", "unreadable_samples", "checkpoint_step")
    }
    health = RunHealth()
    health.add_step({**step(1), "mfu": None, "loss": float("nan")})
    assert not {"vamba_train_mfu_ratio", "vamba_train_loss"} & set(health.values(now=5.0))


def test_every_value_stands_in_the_table_under_a_name_that_prometheus_takes() -> None:
    health = RunHealth()
    health.add_event(attempt(1, 1000.0))
    health.add_event({"event": "checkpoint_committed", "time": 1012.0, "step": 2})
    health.add_event({"event": "evaluated", "time": 1012.0, "step": 2, "evaluation_loss": 0.5})
    health.add_step(step(1))
    names = [metric.name for metric in METRICS]
    assert set(health.values(now=1020.0)) == set(names) and len(names) == len(set(names))
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in names)


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    config = TrainingConfig(name="run-1", data="d", storage=str(tmp_path))
    opened = run_directory(config.storage, config.name)
    opened.open(config, data_digest="sha256:d")
    append_line(opened.metrics_path(opened.new_attempt()), step(7))
    return opened


def test_without_ray_nothing_happens(directory: RunDirectory) -> None:
    RayReporter(directory).report()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_exports_them(directory: RunDirectory) -> None:
    import ray

    from pipelines.ray_session import ray_session

    ingest = IngestConfig(sources=("v",), out="s3://bucket/videos")
    status = IngestStatus(stage="decode", videos_done=9, num_videos=9, media_s=1.0, num_failed=2, elapsed_s=1.0)
    with ray_session(None, 1):
        RayReporter(directory).report()
        RayProgress(Silent(), ingest).update(status)
        port = ray.nodes()[0]["MetricsExportPort"]
        exported, names = "", ("train_step", "ingest_videos_failed")
        # The time limit of the test ends a vain wait.
        while not all(f"ray_vamba_{name}{{" in exported for name in names):
            time.sleep(0.5)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                exported = answer.read().decode()
    (line,) = re.findall(r"^ray_vamba_train_step\{.*$", exported, flags=re.MULTILINE)
    assert 'run="run-1"' in line and line.endswith(" 7.0")
    (line,) = re.findall(r"^ray_vamba_ingest_videos_failed\{.*$", exported, flags=re.MULTILINE)
    assert 'dataset="s3://bucket/videos"' in line and line.endswith(" 2.0")
