"""The loss chart stays readable: linear for a flat curve, logarithmic for one that falls by orders of magnitude."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from jobs.report_parts.charts import loss_chart
from jobs.report_parts.facts import Resume, RunFacts


def run_with(losses: list[float], *, resumes: tuple[Resume, ...] = ()) -> RunFacts:
    return RunFacts(
        name="run", directory=Path("run"), recipe="tiny", losses=tuple(enumerate(losses, start=1)), replayed=(),
        resumes=resumes, max_difference=0.0, num_tokens=1, wall_s=1.0, lineage={},
    )  # fmt: skip


def heights(chart: str) -> list[float]:
    points = re.search(r'<polyline class="raw" points="([^"]+)"', chart)
    assert points is not None
    return [float(pair.split(",")[1]) for pair in points.group(1).split()]


def test_a_curve_that_falls_by_orders_of_magnitude_gets_equal_steps_per_decade() -> None:
    chart = loss_chart(run_with([10.0, 1.0, 0.1, 0.01]))
    y = heights(chart)
    steps = [later - earlier for earlier, later in zip(y, y[1:], strict=False)]
    assert steps == pytest.approx([steps[0]] * 3, abs=0.2) and steps[0] > 0
    assert ">0.01<" in chart and ">10<" in chart


def test_a_flat_curve_starts_at_zero_on_a_linear_axis() -> None:
    y = heights(loss_chart(run_with([4.0, 3.0, 2.0])))
    assert y[1] - y[0] == pytest.approx(y[2] - y[1], abs=0.2)


@pytest.mark.parametrize("losses", [[0.0, 0.0], [float("nan"), 1.0], [2.0]])
def test_odd_curves_are_drawn_without_an_error(losses: list[float]) -> None:
    assert loss_chart(run_with(losses)).startswith("<svg")
