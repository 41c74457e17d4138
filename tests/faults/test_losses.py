"""A loss that is not finite, and one that leaps: left out and gone back from, the same in a run that is killed."""

from __future__ import annotations

import math
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from tests.faults.lives import Nursery, assert_as_undisturbed, closed_gate, events_of, step_reached
from vamba.train.config import GuardConfig

pytestmark = [pytest.mark.faults, pytest.mark.timeout(150)]

NAN_AT, LEAP_AT, KILLED_BEFORE = 2, 8, 10
TROUBLE = {NAN_AT: math.nan, LEAP_AT: 50.0}


def test_it_ends_as_where_nothing_is_killed(nursery: Nursery, config: TrainingConfig, scratch: Path) -> None:
    """A loss is NaN, another fifty times too large: left out, gone back from, the same if SIGKILL follows on it."""
    guard = GuardConfig(window_steps=8, min_observations=3)
    guarded = replace(config, train=replace(config.train, guard=guard))
    fault = {"losses": TROUBLE}
    quiet = nursery.start(replace(guarded, name=f"{config.name}-quiet"), fault=fault)
    assert quiet.wait() == (0,), quiet.output.read_text()
    gate = closed_gate(scratch, config)
    life = nursery.start(guarded, fault=fault | {"no_data": {"step": KILLED_BEFORE, "path": str(gate)}})
    life.wait_until(step_reached(KILLED_BEFORE - 1))
    life.kill(signal.SIGKILL)
    life.wait()
    again = nursery.start(guarded, fault=fault)
    assert again.wait() == (0,), again.output.read_text()
    skipped = {event["step"]: event["reason"] for event in events_of(again.directory, "step_skipped")}
    assert skipped == {NAN_AT: "non_finite", LEAP_AT: "spike"}
    (rewound,) = events_of(again.directory, "rewound")
    assert (rewound["at"], rewound["to"]) == (LEAP_AT, 6) and set(rewound["samples"]) == {"7", "8"}
    assert_as_undisturbed(again.directory, quiet.directory)
