"""What a fault cost, and whether a run came out as an undisturbed one: arithmetic on the run's own records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Budget = Literal["none is allowed", "used", "another job", "not a failure"]
Records = Sequence[tuple[int, Mapping[str, Any]]]
"""(attempt, what was recorded as a step ended), in the order in which they were written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done. Times are Unix times in seconds.

    began: when it was done, or announced. over: when its cause was gone, the machine or the outage; before that nothing
    can recover. restarts: whether another group of workers must go on. budget: what became of the failure budget
    (`workers.max_failures`); where none is allowed, a single use would have ended the job.
    """

    name: str
    how: str
    began: float
    over: float
    restarts: bool
    budget: Budget


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Of one fault.

    paused_s: the longest time without the end of a step. back_after_s: from `Fault.over` to the end of the first step
    that had not been trained before. lost_steps: trained again. groups: of workers that it took to go on.
    """

    fault: Fault
    paused_s: float
    back_after_s: float
    lost_steps: int
    groups: int


def count_costs(faults: Sequence[Fault], records: Records) -> list[Cost]:
    """Raises AssertionError where training did not go on after a fault."""
    ends = [fault.began for fault in faults[1:]] + [float("inf")]
    return [_cost(fault, end, records) for fault, end in zip(faults, ends, strict=True)]


def _cost(fault: Fault, end: float, records: Records) -> Cost:
    before = [(attempt, record) for attempt, record in records if record["time"] <= fault.began]
    within = [(attempt, record) for attempt, record in records if fault.began < record["time"] <= end]
    seen = {record["step"] for _, record in before}
    last_attempt = max(attempt for attempt, _ in before)
    times = [before[-1][1]["time"], *(record["time"] for _, record in within)]
    lost, back = 0, None
    for attempt, record in within:
        is_new = record["step"] not in seen
        lost += not is_new
        seen.add(record["step"])
        recovered = attempt > last_attempt if fault.restarts else record["time"] >= fault.over
        if back is None and is_new and recovered:
            back = record["time"]
    assert back is not None, f"no new step was trained after: {fault.name}"
    return Cost(
        fault=fault,
        paused_s=max(later - earlier for earlier, later in zip(times, times[1:], strict=False)),
        back_after_s=back - fault.over,
        lost_steps=lost,
        groups=len({attempt for attempt, _ in within} - {last_attempt}),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """Of a disturbed run to an undisturbed one.

    num_steps: of the undisturbed run. num_trained: steps of the disturbed one, with those that were trained again.
    num_equal: of `num_trained`, those whose loss is the same to the last bit. max_difference: of the others, in nats.
    max_relative: the same, as a part of the loss.
    """

    num_steps: int
    num_trained: int
    num_equal: int
    max_difference: float
    max_relative: float


def compare_runs(disturbed: Records, undisturbed: Records, *, exact_until: float, within: float) -> Likeness:
    """Raises AssertionError where a step is missing, has other samples, or another loss.

    exact_until: losses are the same to the last bit before this time, and within so many nats after it.
    """
    expected = {record["step"]: record for _, record in undisturbed}
    assert len(expected) == len(undisturbed), "the undisturbed run was disturbed"
    missing = sorted({*expected} - {record["step"] for _, record in disturbed})
    assert not missing, f"steps that were never trained: {missing}"
    num_equal, largest, relative = 0, 0.0, 0.0
    for attempt, record in disturbed:
        known = expected[record["step"]]
        where = f"step {record['step']} of attempt {attempt}"
        assert record["sample_ids"] == known["sample_ids"], f"{where} has other samples"
        difference = abs(record["loss"] - known["loss"])
        allowed = 0.0 if record["time"] < exact_until else within
        assert difference <= allowed, f"{where}: loss {record['loss']!r}, undisturbed {known['loss']!r}"
        num_equal += record["loss"] == known["loss"]
        largest, relative = max(largest, difference), max(relative, difference / abs(known["loss"]))
    return Likeness(
        num_steps=len(expected),
        num_trained=len(disturbed),
        num_equal=num_equal,
        max_difference=largest,
        max_relative=relative,
    )
