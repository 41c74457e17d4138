"""A run's files: who may continue it, and what a kill leaves readable."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import MetricsFollower, RunDirectory, RunMismatchError, run_directory
from pipelines.training.summary import summarize
from vamba.train.config import EvaluationConfig, GuardConfig, OptimizerConfig


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(name="run-1", data=str(tmp_path / "data"), storage=str(tmp_path))


@pytest.fixture
def directory(config: TrainingConfig) -> RunDirectory:
    opened = run_directory(config.storage, config.name)
    opened.open(config, data_digest="sha256:d")
    return opened


def write_steps(directory: RunDirectory, losses: dict[int, float], resumed_from: int) -> None:
    attempt = directory.new_attempt()
    for rank in range(2):
        directory.append_event(
            "attempt_started", attempt=attempt, rank=rank, pid=100 + rank, world_size=2, resumed_from_step=resumed_from
        )
    lines = [json.dumps({"step": step, "loss": loss, "time": 50.0 + step}) for step, loss in losses.items()]
    directory.metrics_path(attempt).write_text("\n".join(lines) + "\n")


def test_the_same_configuration_continues(directory: RunDirectory, config: TrainingConfig) -> None:
    digest = directory.read_run()["config_digest"]
    directory.update_run(mlflow_run_id="m")
    directory.open(config, data_digest="sha256:d")
    assert directory.read_run() == {
        "name": "run-1", "config_digest": digest, "data_digest": "sha256:d", "mlflow_run_id": "m"
    }  # fmt: skip


def test_listed_changes_are_allowed_and_recorded(directory: RunDirectory, config: TrainingConfig) -> None:
    digest = directory.read_run()["config_digest"]
    changed = replace(config, workers=replace(config.workers, num_workers=4), data="/elsewhere")
    directory.open(changed, data_digest="sha256:d")
    assert directory.read_run()["config_digest"] == digest
    assert directory.read_events()[-1]["fields"]["workers.num_workers"] == [2, 4]


def test_other_changes_are_refused_with_a_diff(directory: RunDirectory, config: TrainingConfig) -> None:
    changed = replace(config, train=replace(config.train, seed=7, optimizer=OptimizerConfig(learning_rate=0.5)))
    with pytest.raises(RunMismatchError) as refusal:
        directory.open(changed, data_digest="sha256:d")
    assert "train.optimizer.learning_rate: 1e-05 -> 0.5" in str(refusal.value)
    assert "train.seed: 0 -> 7" in str(refusal.value)


def test_a_run_of_an_earlier_version_continues_with_what_it_lacked(
    directory: RunDirectory, config: TrainingConfig
) -> None:
    old = json.loads(directory.config_path.read_text())
    del old["train"]["guard"], old["train"]["evaluation"], old["checkpoints"]["keep_best"]
    directory.config_path.write_text(json.dumps(old))
    directory.open(config, data_digest="sha256:d")
    other = replace(config, train=replace(config.train, evaluation=EvaluationConfig(max_packs=3)))
    with pytest.raises(RunMismatchError, match=r"train\.evaluation\.max_packs: 64 -> 3"):
        directory.open(other, data_digest="sha256:d")


def test_the_guard_may_change(directory: RunDirectory, config: TrainingConfig) -> None:
    """A run that it has ended must be able to go on."""
    directory.open(
        replace(config, train=replace(config.train, guard=GuardConfig(max_rewinds=9))), data_digest="sha256:d"
    )
    assert directory.read_events()[-1]["fields"] == {"train.guard.max_rewinds": [5, 9]}


def test_other_data_is_refused(directory: RunDirectory, config: TrainingConfig) -> None:
    with pytest.raises(RunMismatchError, match="data digest: sha256:d -> sha256:other"):
        directory.open(config, data_digest="sha256:other")


def test_lines_torn_by_a_kill_are_skipped_and_do_not_swallow_the_next(directory: RunDirectory) -> None:
    directory.append_event("one")
    with directory.events_path.open("a") as file:
        file.write('{"event": "to')
    directory.append_event("two")
    assert [event["event"] for event in directory.read_events()] == ["one", "two"]


def test_follower_reads_each_whole_line_once(directory: RunDirectory) -> None:
    follower = MetricsFollower(directory)
    write_steps(directory, {1: 3.0, 2: 2.0}, resumed_from=0)
    with directory.metrics_path(1).open("a") as file:
        file.write('{"step": 3, "lo')
        file.flush()
        assert [record["step"] for _, record in follower.read_new()] == [1, 2]
        file.write('ss": 1.0}\n')
    write_steps(directory, {3: 1.0}, resumed_from=2)
    assert [(attempt, record["step"]) for attempt, record in follower.read_new()] == [(1, 3), (2, 3)]
    assert list(follower.read_new()) == []


def test_summary_compares_replayed_steps(directory: RunDirectory) -> None:
    write_steps(directory, {1: 3.0, 2: 2.0, 3: 1.5}, resumed_from=0)
    write_steps(directory, {3: 1.25, 4: 1.0}, resumed_from=2)
    summary = summarize(directory, "finished", 4)
    assert [attempt.resumed_from_step for attempt in summary.attempts] == [0, 2]
    assert summary.attempts[1].pids == (100, 101)
    assert (summary.num_replayed_steps, summary.max_replay_difference) == (1, 0.25)
    assert (summary.step, summary.first_loss, summary.final_loss) == (4, 3.0, 1.0)


def test_a_replayed_step_without_a_finite_loss_equals_itself(directory: RunDirectory) -> None:
    write_steps(directory, {1: 3.0, 2: float("nan"), 3: 1.5}, resumed_from=0)
    write_steps(directory, {2: float("nan"), 3: 1.5}, resumed_from=1)
    summary = summarize(directory, "finished", 3)
    assert (summary.num_replayed_steps, summary.max_replay_difference) == (2, 0.0)


@pytest.mark.parametrize("name", ["Run", "a b", "../x", ""])
def test_names_that_are_no_folder_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must match"):
        TrainingConfig(name=name, data="d")


def test_object_stores_are_refused_for_runs() -> None:
    with pytest.raises(ValueError, match="file system that all workers see"):
        run_directory("s3://bucket/x", "run")
