"""A run's files: who may continue it, and what a kill leaves readable."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training import run_directory as run_directory_module
from pipelines.training.config import TrainingConfig, WorkersConfig
from pipelines.training.run_directory import (
    DamagedFileError,
    MetricsFollower,
    RunDirectory,
    RunMismatchError,
    run_directory,
)
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
    record = directory.read_run()
    assert len(set(record.pop("config_sha256"))) == 1
    assert record == {"name": "run-1", "config_digest": digest, "data_digest": "sha256:d", "mlflow_run_id": "m"}


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
    directory.update_run(config_sha256=None)
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


def test_a_configuration_that_was_changed_behind_the_run_is_refused(
    directory: RunDirectory, config: TrainingConfig
) -> None:
    text = directory.config_path.read_text()
    directory.config_path.write_text(text.replace('"learning_rate": 1e-05', '"learning_rate": 2e-05'))
    with pytest.raises(DamagedFileError, match=r"config\.json is not what the run wrote.*vamba train"):
        directory.read_config()
    with pytest.raises(DamagedFileError, match="not what the run wrote"):
        directory.open(config, data_digest="sha256:d")
    directory.config_path.unlink()
    other = replace(config, train=replace(config.train, optimizer=OptimizerConfig(learning_rate=0.5)))
    with pytest.raises(RunMismatchError, match=r"config\.json is gone; digest of the settings"):
        directory.open(other, data_digest="sha256:d")
    with pytest.raises(RunMismatchError, match="data digest"):
        directory.open(config, data_digest="sha256:other")
    directory.open(config, data_digest="sha256:d")
    assert directory.config_path.read_text() == text


def test_a_kill_while_a_change_is_written_leaves_a_run_that_goes_on(
    directory: RunDirectory, config: TrainingConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(path: Path, text: str) -> None:
        if path == directory.config_path:
            raise KeyboardInterrupt
        replaced(path, text)

    replaced = run_directory_module._replace
    monkeypatch.setattr(run_directory_module, "_replace", killed)
    for num_workers in (3, 4):
        with pytest.raises(KeyboardInterrupt):
            directory.open(replace(config, workers=WorkersConfig(num_workers=num_workers)), data_digest="sha256:d")
    monkeypatch.undo()
    assert directory.read_config()["workers"]["num_workers"] == 2
    directory.open(config, data_digest="sha256:d")


@pytest.mark.parametrize("name", ["run.json", "config.json"])
def test_a_torn_file_is_named_with_what_to_do(directory: RunDirectory, config: TrainingConfig, name: str) -> None:
    path = directory.root / name
    path.write_text(path.read_text()[:20])
    with pytest.raises(DamagedFileError, match=rf"{name} is damaged: .* Without one, move it away"):
        directory.open(config, data_digest="sha256:d")


def test_a_copy_of_a_run_shares_neither_mlflow_nor_mirror_and_a_renamed_run_keeps_them(
    directory: RunDirectory, config: TrainingConfig
) -> None:
    directory.update_run(mlflow_run_id="m", mirror_id="i")
    copy = RunDirectory(shutil.copytree(directory.root, directory.root.with_name("copy")))
    copy.open(replace(config, name="copy"), data_digest="sha256:d")
    assert copy.read_run()["mlflow_run_id"] is None and copy.read_run()["mirror_id"] is None
    renamed = RunDirectory(directory.root.rename(directory.root.with_name("renamed")))
    renamed.open(replace(config, name="renamed"), data_digest="sha256:d")
    assert renamed.read_run()["mlflow_run_id"] == "m"


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
