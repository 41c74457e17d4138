"""A rank that hangs is found, its threads are written down, and the run goes on where it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.watchdog import HUNG_EXIT_CODE
from tests.faults.lives import Nursery, assert_as_undisturbed, events_of

pytestmark = pytest.mark.timeout(150)

HUNG_STEP, RANK = 5, 1


def impatient(config: TrainingConfig, timeout_s: float = 5.0) -> TrainingConfig:
    return replace(config, workers=replace(config.workers, hang_timeout_s=timeout_s))


def test_one_process(nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory) -> None:
    """A process hangs in a step: its threads are written down, exit code 76, and the same command goes on."""
    life = nursery.start(impatient(config), fault={"hang": {"rank": 0, "step": HUNG_STEP}})
    assert life.wait() == (HUNG_EXIT_CODE,), life.output.read_text()
    (hung,) = events_of(life.directory, "worker_hung")
    assert (hung["phase"], hung["step"], hung["suspects"]) == ("step", HUNG_STEP - 1, [0])
    stacks = (life.directory.root / "stacks" / "attempt-0001-rank-0.txt").read_text()
    assert "in hanging" in stacks and "pack-reader" not in stacks.splitlines()[0]
    assert_as_undisturbed(nursery.finish(config), undisturbed)
    assert not list((life.directory.root / "stacks").glob("attempt-0002*")), "nothing hung in the second attempt"


@pytest.mark.faults
def test_of_two_ranks_the_one_that_hangs_is_named(nursery: Nursery, config: TrainingConfig) -> None:
    """One of two ranks hangs, the other waits for it: both write their threads down, and the right one is named."""
    life = nursery.start(impatient(config), ranks=2, fault={"hang": {"rank": RANK, "step": HUNG_STEP}})
    assert HUNG_EXIT_CODE in life.wait(), life.output.read_text()
    assert events_of(life.directory, "worker_hung")[0]["suspects"] == [RANK]
    written = {event["rank"]: event for event in events_of(life.directory, "stacks_written")}
    assert written[0]["waits_for_others"] and not written[RANK]["waits_for_others"]
    directory = nursery.finish(config, ranks=2)
    assert {record["step"] for _, record in directory.read_metrics()} == {*range(1, 13)}
