"""SIGTERM, stop requests and preemption notices: saved at once, at the right moments, also where no data come."""

from __future__ import annotations

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.stop import request_stop
from tests.faults.conftest import NUM_STEPS
from tests.faults.lives import Nursery, assert_as_undisturbed, closed_gate, events_of, step_reached

pytestmark = pytest.mark.timeout(150)

STALLED_AT = 6  # the step after it is no checkpoint's


@pytest.mark.parametrize(
    "signum", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.faults)], ids=["SIGTERM", "SIGINT"]
)
def test_a_signal_saves_and_ends_with_75(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, scratch: Path, signum: int
) -> None:
    """SIGTERM or Ctrl-C while data are waited for: saved at once, exit code 75, no step trained twice."""
    gate = closed_gate(scratch, config)
    life = nursery.start(config, fault={"no_data": {"step": STALLED_AT, "path": str(gate)}})
    life.wait_until(step_reached(STALLED_AT - 1))
    life.kill(signum)
    assert life.wait() == (75,), life.output.read_text()
    assert events_of(life.directory, "stopped")[0]["step"] == STALLED_AT - 1
    assert_as_undisturbed(nursery.finish(config), undisturbed)
    assert len([*life.directory.read_metrics()]) == NUM_STEPS, "no step was trained twice"


@pytest.mark.faults
def test_a_stop_before_the_first_step_trains_none(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, scratch: Path
) -> None:
    """SIGTERM before the first step."""
    gate = closed_gate(scratch, config)
    life = nursery.start(config, fault={"no_data": {"step": 1, "path": str(gate)}})
    life.wait_until(lambda directory: bool(events_of(directory, "attempt_started")))
    life.kill(signal.SIGTERM)
    assert life.wait() == (75,), life.output.read_text()
    assert not [*life.directory.read_metrics()]
    assert_as_undisturbed(nursery.finish(config), undisturbed)


@pytest.mark.faults
def test_two_ranks_of_which_one_has_no_data_stop_together(
    nursery: Nursery, config: TrainingConfig, scratch: Path
) -> None:
    """A stop is asked for while one of two ranks has no data and the other waits within the step: both save."""
    gate = closed_gate(scratch, config)
    fault = {"no_data": {"step": STALLED_AT, "path": str(gate), "rank": 1}}
    life = nursery.start(config, ranks=2, fault=fault)
    life.wait_until(step_reached(STALLED_AT - 1))
    request_stop(life.directory)
    assert life.wait() == (75, 0), life.output.read_text()
    assert events_of(life.directory, "stopped")[0]["step"] == STALLED_AT - 1
    gate.unlink()
    directory = nursery.finish(config, ranks=2)
    records = [record["step"] for _, record in directory.read_metrics()]
    assert records == [*range(1, NUM_STEPS + 1)]


def test_a_preemption_notice_saves_at_once_and_before_the_deadline(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, scratch: Path
) -> None:
    """A preemption notice between two checkpoints and while data are waited for: saved at once, each time."""
    rare = replace(config, train=replace(config.train, checkpoint_every_steps=1000))
    notice, gate = scratch / f"{config.name}.notice", closed_gate(scratch, config)
    life = nursery.start(
        rare, fault={"notice": {"path": str(notice)}, "no_data": {"step": STALLED_AT, "path": str(gate)}}
    )
    life.wait_until(step_reached(STALLED_AT - 1))
    notice.write_text(json.dumps({"deadline": time.time() + 3600, "ranks": [0]}))
    life.wait_until(lambda directory: saved_steps(directory) == [STALLED_AT - 1])
    notice.write_text(json.dumps({"deadline": time.time() + 600, "ranks": [0]}))
    life.wait_until(lambda directory: len(events_of(directory, "preemption_announced")) == 2)
    gate.unlink()
    assert life.wait() == (0,), life.output.read_text()
    assert max(saved_steps(life.directory)) == NUM_STEPS and STALLED_AT in saved_steps(life.directory)
    assert_as_undisturbed(life.directory, undisturbed)


def saved_steps(directory: RunDirectory) -> list[int]:
    return [event["step"] for event in events_of(directory, "checkpoint_committed")]
