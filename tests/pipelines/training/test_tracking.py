"""What MLflow's database holds after kills, outages and replays: one run, and one point for each metric and step."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.config import TrackingConfig, TrainingConfig
from pipelines.training.json_lines import append_line, read_lines
from pipelines.training.line_follower import LineFollower
from pipelines.training.machine import MachineSampler, parse_gpus
from pipelines.training.mlflow_run import MlflowRun, metrics_of
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.tracking import Tracker, send_the_rest


def quiet(line: str) -> None:
    pass


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    tracking = TrackingConfig(flush_every_s=0.01, detail_every_steps=4)
    return TrainingConfig(name="run-1", data=str(tmp_path / "data"), storage=str(tmp_path), tracking=tracking)


@pytest.fixture
def directory(config: TrainingConfig) -> RunDirectory:
    opened = run_directory(config.storage, config.name)
    opened.open(config, data_digest="sha256:d")
    return opened


def record(step: int, time: float) -> dict[str, Any]:
    return {
        "step": step, "epoch": 0, "loss": 1 / step, "grad_norm": 2.0, "learning_rate": 1e-3, "num_loss_tokens": 4,
        "num_text_tokens": 40, "num_video_tokens": 60, "seconds": {"data": 0.01, "compute": 0.09},
        "sample_ids": ["a", "b"], "unreadable": [], "grad_norms": {"mixers": 1.0, "alpha": 0.5}, "alphas": [0.25, 1.0],
        "memory_bytes": 1 << 30, "mfu": 0.4, "time": time,
    }  # fmt: skip


def train(directory: RunDirectory, first: int, last: int) -> None:
    """An attempt that records steps, each at another time than any attempt before it."""
    attempt = directory.new_attempt()
    directory.append_event(
        "attempt_started", attempt=attempt, rank=0, pid=1, host="node-7", world_size=2, resumed_from_step=first - 1
    )
    for step in range(first, last + 1):
        append_line(directory.metrics_path(attempt), record(step, time=1000.0 * attempt + step))


def start_and_die(config: TrainingConfig, directory: RunDirectory) -> None:
    """A driver that sends what there is and is killed: it ends nothing and says goodbye to nobody."""
    tracker = Tracker(replace(config, tracking=replace(config.tracking, enabled=False)), directory, quiet)
    tracker._flush()


def points(home: Path) -> dict[tuple[str, int], int]:
    """How often MLflow's database holds each (metric, step)."""
    with sqlite3.connect(home / "mlflow.db") as database:
        rows = database.execute("SELECT key, step, COUNT(*) FROM metrics GROUP BY key, step").fetchall()
    return {(key, step): count for key, step, count in rows}


def tags(home: Path) -> dict[str, str]:
    with sqlite3.connect(home / "mlflow.db") as database:
        assert database.execute("SELECT COUNT(*) FROM runs").fetchone() == (1,)
        return dict(database.execute("SELECT key, value FROM tags").fetchall())


def test_kills_and_replays_leave_one_run_without_a_doubled_point(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path
) -> None:
    train(directory, 1, 8)
    start_and_die(config, directory)  # after the metrics were sent
    train(directory, 6, 12)
    start_and_die(config, directory)
    train(directory, 11, 16)
    append_line(directory.machine_path, {"time": 5.0, "step": 3, "values": {"system/cpu_utilization_percentage": 50.0}})
    for step in (8, 16, 16):  # the last one was cut off before its checkpoint, and made again
        directory.append_event("evaluated", step=step, evaluation_loss=0.5)
    Tracker(config, directory, quiet).close("finished")
    found = points(vamba_home)
    assert set(found.values()) == {1}
    assert {step for key, step in found if key == "loss"} == set(range(1, 17))
    assert {step for key, step in found if key == "evaluation_loss"} == {8, 16}
    assert {step for key, step in found if key == "alpha/01"} == {4, 8, 12, 16}
    assert ("system/cpu_utilization_percentage", 3) in found
    noted = tags(vamba_home)
    attempts = {key: json.loads(value) for key, value in noted.items() if key.startswith("vamba.attempt.")}
    assert [(value["from_step"], value["workers"], value["host"]) for value in attempts.values()] == [
        (0, 2, "node-7"), (5, 2, "node-7"), (10, 2, "node-7")
    ]  # fmt: skip
    assert noted["environment_digest"].startswith("sha256:")
    (listing,) = (vamba_home / "mlartifacts").rglob("environment/*.txt")
    assert "torch==" in listing.read_text() and listing.stem in noted["environment_digest"]
    assert list((vamba_home / "mlartifacts").rglob("config.json"))


def test_a_batch_whose_answer_was_lost_is_sent_again_without_harm(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(directory, 1, 5)
    sent = MlflowRun.log
    losses = iter([True, False])

    def lossy(self: MlflowRun, batch: Any) -> None:
        sent(self, batch)
        if next(losses, False):
            raise ConnectionError("the answer was lost")

    monkeypatch.setattr(MlflowRun, "log", lossy)
    tracker = Tracker(replace(config, tracking=replace(config.tracking, enabled=False)), directory, quiet)
    with pytest.raises(ConnectionError):
        tracker._flush()
    tracker._flush()
    assert set(points(vamba_home).values()) == {1}


def test_a_kill_between_creating_and_noting_the_run_makes_no_second_one(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path
) -> None:
    train(directory, 1, 3)
    start_and_die(config, directory)
    forgotten = {key: value for key, value in directory.read_run().items() if key != "mlflow_run_id"}
    directory.run_path.write_text(json.dumps(forgotten))
    Tracker(config, directory, quiet).close("finished")
    assert set(points(vamba_home).values()) == {1}
    assert tags(vamba_home)["data_digest"] == "sha256:d"


def test_a_description_that_was_cut_off_is_finished_with_other_settings(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters can't be set twice in MLflow, and the number of workers may change."""
    train(directory, 1, 3)
    with monkeypatch.context() as killed:
        killed.setattr("mlflow.MlflowClient.log_inputs", lambda *_, **__: pytest.fail("killed here"))
        with pytest.raises(pytest.fail.Exception):
            start_and_die(config, directory)
    other = replace(config, workers=replace(config.workers, num_workers=4))
    directory.open(other, data_digest="sha256:d")
    Tracker(other, directory, pytest.fail).close("finished")
    assert {step for key, step in points(vamba_home) if key == "loss"} == {1, 2, 3}


def test_a_run_continued_elsewhere_stays_in_the_database_it_began_in(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(directory, 1, 3)
    start_and_die(config, directory)
    train(directory, 3, 5)
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path / "elsewhere"))
    Tracker(config, directory, pytest.fail).close("finished")
    found = points(vamba_home)
    assert set(found.values()) == {1} and {step for key, step in found if key == "loss"} == {1, 2, 3, 4, 5}
    assert not (tmp_path / "elsewhere").exists()


def test_mlflow_away_from_start_to_end_gets_everything_at_the_next_start(
    config: TrainingConfig, directory: RunDirectory, vamba_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    notices: list[str] = []
    train(directory, 1, 6)
    directory.append_event("finished", step=6)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    Tracker(config, directory, notices.append).close("finished")
    assert "MLflow can't be reached" in notices[0] and "sent when the same command runs again" in notices[-1]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    send_the_rest(config, directory, quiet)
    found = points(vamba_home)
    assert set(found.values()) == {1} and {step for key, step in found if key == "loss"} == set(range(1, 7))
    before = directory.read_run()
    assert before["mlflow_sent"] == {"status": "finished", "step": 6}


def test_the_metrics_of_a_step() -> None:
    named = metrics_of(record(2, 0.0))
    assert named["tokens_per_second/text"] == pytest.approx(400) and named["tokens_per_second/video"] == pytest.approx(
        600
    )
    assert named["data_wait_share"] == pytest.approx(0.1)
    assert (named["mfu"], named["memory_gib"], named["grad_norm/mixers"], named["alpha/01"]) == (0.4, 1.0, 1.0, 1.0)
    assert not any(name.startswith(("alpha", "grad_norm/")) for name in metrics_of(record(2, 0.0), with_detail=False))
    assert "mfu" not in metrics_of({**record(2, 0.0), "mfu": None})


def test_a_torn_line_is_skipped_and_the_next_one_read(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    follower = LineFollower(path)
    assert list(follower.read_new()) == []
    append_line(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": ')
    assert list(follower.read_new()) == [{"a": 1}]
    append_line(path, {"a": 3})
    assert list(follower.read_new()) == [{"a": 3}] == list(read_lines(path))[1:]


def test_the_machine_is_sampled_until_it_is_closed(directory: RunDirectory) -> None:
    sampler = MachineSampler(directory, every_s=0.02)
    while not list(read_lines(directory.machine_path)):
        pass
    sampler.close()
    samples = list(read_lines(directory.machine_path))
    assert 0 <= samples[0]["values"]["system/cpu_utilization_percentage"] <= 100
    assert len({sample["step"] for sample in samples}) == len(samples)


def test_gpus_are_read_from_what_nvidia_smi_prints() -> None:
    assert parse_gpus("0, 87, 40960, 350.25\n1, [N/A], 10, [N/A]\n") == {
        "system/gpu_0_utilization_percentage": 87.0,
        "system/gpu_0_memory_usage_megabytes": 42949.7,
        "system/gpu_0_power_usage_watts": 350.2,
        "system/gpu_1_memory_usage_megabytes": 10.5,
    }
