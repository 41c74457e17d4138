"""The arithmetic behind docs/reliability.md, on records written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.cluster.accounting import Fault, compare_runs, count_costs
from tests.cluster.table import BEGIN, END, cost_table, write_between_markers

KILL = Fault(name="kill", how="SIGKILL", began=4.5, over=5.0, restarts=True, budget="used")
OUTAGE = Fault(name="outage", how="stopped", began=13.5, over=17.0, restarts=False, budget="none is allowed")


def record(step: int, time: float, loss: float = 1.0) -> dict[str, Any]:
    return {"step": step, "time": time, "loss": loss, "sample_ids": [f"sample-{step}"]}


# Steps 1 to 4, a kill, steps 3 to 7 by another group, an outage, steps 8 and 9.
FIRST = [(1, record(step, step)) for step in (1, 2, 3, 4)]
SECOND = [(2, record(step, step + 7)) for step in (3, 4, 5, 6)] + [(2, record(7, 17.5)), (2, record(8, 18.5))]
RECORDS = FIRST + SECOND
UNDISTURBED = [(1, record(step, step)) for step in range(1, 9)]


def test_costs() -> None:
    kill, outage = count_costs([KILL, OUTAGE], RECORDS)
    assert (kill.paused_s, kill.back_after_s, kill.lost_steps, kill.groups) == (6.0, 7.0, 2, 1)
    assert (outage.paused_s, outage.back_after_s, outage.lost_steps, outage.groups) == (4.5, 0.5, 0, 0)


def test_a_run_that_never_goes_on_is_found() -> None:
    with pytest.raises(AssertionError, match="no new step was trained after: kill"):
        count_costs([KILL], FIRST)


def test_a_run_that_came_out_as_undisturbed() -> None:
    likeness = compare_runs(RECORDS, UNDISTURBED, exact_until=100.0, within=0.0)
    assert (likeness.num_steps, likeness.num_trained, likeness.num_equal) == (8, 10, 10)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sample_ids": ["sample-9"]}, "step 5 of attempt 2 has other samples"),
        ({"loss": 1.0 + 1e-7}, "step 5 of attempt 2: loss"),
    ],
)
def test_differences_are_found(changed: dict[str, Any], message: str) -> None:
    records = [(attempt, {**each, **changed} if each["step"] == 5 else each) for attempt, each in RECORDS]
    with pytest.raises(AssertionError, match=message):
        compare_runs(records, UNDISTURBED, exact_until=100.0, within=1e-6)


def test_losses_may_differ_a_little_once_the_number_of_workers_changed() -> None:
    records = [(attempt, {**each, "loss": 1.0 + 1e-7} if each["step"] == 8 else each) for attempt, each in RECORDS]
    likeness = compare_runs(records, UNDISTURBED, exact_until=18.0, within=1e-6)
    assert likeness.num_equal == 9 and 0.5e-7 < likeness.max_difference < 2e-7


def test_a_missing_step_is_found() -> None:
    with pytest.raises(AssertionError, match=r"never trained: \[8\]"):
        compare_runs(RECORDS[:-1], UNDISTURBED, exact_until=100.0, within=0.0)


def test_the_table_replaces_what_stands_between_the_markers(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"# Before\n\n{BEGIN}\nold\n{END}\n\nAfter.\n")
    table = cost_table(count_costs([KILL, OUTAGE], RECORDS))
    write_between_markers(page, table)
    assert page.read_text() == f"# Before\n\n{BEGIN}\n\n{table}\n\n{END}\n\nAfter.\n"
    assert table.splitlines()[2] == "| kill | SIGKILL | 6.0 s | 7.0 s | 2 | 1 used |"
    page.write_text("# A page without markers\n")
    with pytest.raises(AssertionError, match="lacks the lines"):
        write_between_markers(page, table)
