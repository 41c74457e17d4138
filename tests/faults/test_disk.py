"""A full disk, in the checkpoint and in the records: one clear message or none needed, and nothing lost."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from tests.faults.lives import Nursery, assert_as_undisturbed, events_of, step_reached

pytestmark = pytest.mark.timeout(150)

# More than a line of the records, less than a file of a checkpoint.
HALF_A_FILE = 1_000_000


def test_full_for_checkpoints(nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory) -> None:
    """Disk full for checkpoints, whose files end half-way: three failures in a row end the run with the reason."""
    life = nursery.start(config, fault={"most_bytes": HALF_A_FILE})
    assert life.wait() == (1,)
    assert len(events_of(life.directory, "checkpoint_failed")) == 3
    (failed,) = events_of(life.directory, "worker_failed")
    assert "3 checkpoints in a row could not be written" in failed["reason"] and "File too large" in failed["reason"]
    assert not list(life.directory.checkpoints.iterdir()), "nothing torn stays"
    assert_as_undisturbed(nursery.finish(config), undisturbed)


@pytest.mark.faults
def test_full_for_checkpoints_but_not_for_long(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory
) -> None:
    """Disk full for one checkpoint: noted, and the run goes on."""
    rare = replace(config, train=replace(config.train, checkpoint_every_steps=9))
    life = nursery.start(rare, fault={"refuse": "checkpoints/step_00000009"})
    assert life.wait() == (0,), life.output.read_text()
    assert len(events_of(life.directory, "checkpoint_failed")) == 1
    assert_as_undisturbed(life.directory, undisturbed)


def test_full_for_the_records_of_steps(nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory) -> None:
    """Disk full for the records of steps: the run ends before a checkpoint holds one without a record."""
    life = nursery.start(config, fault={"refuse": "metrics/attempt-0001", "after": 1})
    assert life.wait() == (1,)
    (failed,) = events_of(life.directory, "worker_failed")
    assert "Steps 1 to 3" in failed["reason"] and "No space left on device" in failed["reason"]
    assert_as_undisturbed(nursery.finish(config), undisturbed)


@pytest.mark.faults
def test_full_for_the_events(nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory) -> None:
    """Disk full for the event log: told on the terminal, and the run goes on or ends with the reason."""
    life = nursery.start(config, fault={"refuse": "events.jsonl", "after": 3})
    status = life.wait()[0]
    assert status in (0, 1)
    assert "No space left on device" in life.output.read_text()
    assert_as_undisturbed(nursery.finish(config), undisturbed)


def test_torn_events_and_metrics(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, scratch: Path
) -> None:
    """The event log and the metrics end in torn lines: skipped, and closed by the next."""
    gate = scratch / f"{config.name}.gate"
    gate.touch()
    life = nursery.start(config, fault={"no_data": {"step": 5, "path": str(gate)}})
    life.wait_until(step_reached(4))
    life.kill(signal.SIGKILL)
    assert life.wait() == (-signal.SIGKILL,)
    events, metrics = life.directory.events_path, life.directory.attempts()[-1]
    events.write_bytes(events.read_bytes()[:-7])
    metrics.write_bytes(metrics.read_bytes() + b'{"step": 5, "lo')
    directory = nursery.finish(config)
    assert_as_undisturbed(directory, undisturbed)
    assert directory.finished_step() == 12
