"""The whole job on Ray: two workers, one of them killed, MLflow fed, and the same command again."""

from __future__ import annotations

import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrackingConfig, TrainingConfig
from pipelines.training.job import run_training
from pipelines.training.run_directory import RunDirectory, RunMismatchError, run_directory
from pipelines.training.summary import TrainingSummary, read_attempts
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config
from vamba.parallel.config import ParallelConfig

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]

NUM_STEPS, EVERY, KILL_AFTER = 40, 10, 14


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("job")


@pytest.fixture(scope="module")
def config(home: Path) -> TrainingConfig:
    write_dataset(home / "data", [make_sample(i) for i in range(24)])
    tiny = tiny_config(home / "data", home, "killed", num_steps=NUM_STEPS, every=EVERY)
    parallel = ParallelConfig(reshard_after_forward=False, min_unit_parameters=1_000_000)
    return replace(tiny, parallel=parallel, tracking=TrackingConfig(enabled=True))


@pytest.fixture(scope="module")
def summary(config: TrainingConfig, home: Path) -> TrainingSummary:
    """The finished run. Its second worker is killed once, some steps after the first checkpoint."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VAMBA_HOME", str(home))
        killer = threading.Thread(target=kill_a_worker, args=(run_directory(config.storage, config.name),), daemon=True)
        killer.start()
        return run_training(config, notice=lambda line: None)


def kill_a_worker(directory: RunDirectory) -> None:
    while True:
        steps = [record["step"] for _, record in directory.read_metrics()]
        if steps and max(steps) >= KILL_AFTER:
            os.kill(read_attempts(directory)[0].pids[1], signal.SIGKILL)
            return
        time.sleep(0.02)


def test_the_run_survives_and_replays_the_lost_steps_bit_for_bit(summary: TrainingSummary) -> None:
    assert (summary.status, summary.step) == ("finished", NUM_STEPS)
    first, second = summary.attempts
    assert first.resumed_from_step == 0
    assert second.resumed_from_step >= EVERY
    assert second.resumed_from_step % EVERY == 0
    assert not {*first.pids} & {*second.pids}
    assert summary.num_replayed_steps >= 1
    assert summary.max_replay_difference == 0.0


def test_the_finished_model_loads(summary: TrainingSummary) -> None:
    from vamba.model.pretrained import from_pretrained

    assert summary.model is not None
    assert from_pretrained(summary.model).config.num_hidden_layers > 0
    assert {"tokenizer.json", "processing.json"} <= {path.name for path in summary.model.iterdir()}


def test_the_chosen_backends_are_recorded(summary: TrainingSummary) -> None:
    chosen = {"scan": "torch", "conv": "torch", "attention": "sdpa"}
    directory = RunDirectory(summary.directory)
    assert directory.read_run()["backends"] == chosen
    started = [event for event in directory.read_events() if event["event"] == "attempt_started"]
    assert [event["backends"] for event in started] == [chosen] * 4
    newest = CheckpointStore(directory.checkpoints).committed()[-1]
    assert newest.meta["backends"] == chosen


def test_mlflow_has_one_run_with_every_step_once(summary: TrainingSummary, home: Path) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("VAMBA_HOME", str(home))
        from pipelines.registry.tracking import open_client

        client = open_client()
        assert summary.mlflow_run_id is not None
        run = client.get_run(summary.mlflow_run_id)
        points = client.get_metric_history(summary.mlflow_run_id, "loss")
    assert [point.step for point in sorted(points, key=lambda p: p.step)] == list(range(1, NUM_STEPS + 1))
    assert run.info.status == "FINISHED"
    assert run.data.params["train.num_steps"] == str(NUM_STEPS)
    assert run.data.tags["data_digest"].startswith("sha256:")
    assert run.data.tags["vamba.backends"] == "scan torch, conv torch, attention sdpa"
    assert len(run.inputs.dataset_inputs) == 1


def test_the_same_command_again_says_it_is_done(summary: TrainingSummary, config: TrainingConfig) -> None:
    lines: list[str] = []
    again = run_training(config, notice=lines.append)
    assert again.status == "already_finished"
    assert any("finished at step 40" in line for line in lines)


def test_another_learning_rate_under_the_same_name_is_refused(summary: TrainingSummary, config: TrainingConfig) -> None:
    optimizer = replace(config.train.optimizer, learning_rate=0.5)
    with pytest.raises(RunMismatchError, match="learning_rate"):
        run_training(replace(config, train=replace(config.train, optimizer=optimizer)))
