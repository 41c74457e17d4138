"""Charts as inline SVG, drawn by hand: no script, no font, no request. Colours are classes that the page's style
defines.

Coordinates are pixels of the view box; the page scales it to its width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from jobs.report_parts.axes import line, scale, svg, ticks, value_axis
from jobs.report_parts.facts import RunFacts

_WIDTH, _HEIGHT = 1000, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 40, 40
_SMOOTHING_STEPS = 12
_LABEL_WIDTH = 400  # of the longest label of a resume, with four-digit steps


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """A row of the accuracy chart. value, control: 0 to 1; control is None where not measured. note: beside the bar."""

    label: str
    value: float
    stderr: float | None
    note: str
    control: float | None


def loss_chart(run: RunFacts) -> str:
    """Loss by step: every step faint, its mean strong, resumes marked, replayed points ringed."""
    if not run.losses:
        return "<p>No step was recorded.</p>"
    last_step = run.losses[-1][0]
    x = scale(0, max(last_step, 1), _LEFT, _WIDTH - _RIGHT)
    losses = [loss for _, loss in (*run.losses, *run.replayed)]
    y, marks = value_axis(losses, _HEIGHT - _BOTTOM, _TOP, 5)
    parts = [*_axes(x, y, last_step, marks)]
    parts += [_resume_mark(resume.from_step, resume.reached_step, resume.attempt, x) for resume in run.resumes]
    parts.append(line(run.losses, x, y, "raw"))
    parts.append(line(_smoothed(run.losses), x, y, "curve"))
    parts += [
        f'<circle class="replayed" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="2.8"/>' for step, loss in run.replayed
    ]
    title = f"Loss of run {escape(run.name)} over {last_step} steps"
    return svg(_WIDTH, _HEIGHT, title, parts)


def accuracy_chart(bars: Sequence[Bar], chance: float | None) -> str:
    """One row per group: accuracy over its shuffled-video control, and the line of chance."""
    left, right, row, top = 190, 190, 58, 34
    height = top + row * len(bars) + 34
    x = scale(0, 1, left, _WIDTH - right)
    bottom = top + row * len(bars)
    parts = []
    for tick in range(0, 101, 25):
        position = x(tick / 100)
        parts.append(f'<line class="grid" x1="{position:.1f}" y1="{top - 8}" x2="{position:.1f}" y2="{bottom}"/>')
        parts.append(f'<text class="tick" x="{position:.1f}" y="{bottom + 20}" text-anchor="middle">{tick} %</text>')
    for index, bar in enumerate(bars):
        parts += _bar_rows(bar, top + row * index, x)
    if chance is not None:
        position = x(chance)
        parts.append(f'<line class="chance" x1="{position:.1f}" y1="{top - 10}" x2="{position:.1f}" y2="{bottom}"/>')
        place = f'x="{position:.1f}" y="{top - 16}" text-anchor="middle"'
        parts.append(f'<text class="chance-label" {place}>chance {chance:.0%}</text>')
    return svg(_WIDTH, height, "Accuracy by video length, with the shuffled-video control", parts)


def _bar_rows(bar: Bar, top: float, x: Callable[[float], float]) -> list[str]:
    start, width = x(0), max(x(bar.value) - x(0), 1)
    parts = [
        f'<text class="label" x="{start - 14:.1f}" y="{top + 25}" text-anchor="end">{escape(bar.label)}</text>',
        f'<rect class="bar" x="{start:.1f}" y="{top + 8}" width="{width:.1f}" height="22" rx="3"/>',
    ]
    if bar.stderr:
        low, high = x(max(0.0, bar.value - bar.stderr)), x(min(1.0, bar.value + bar.stderr))
        middle = top + 19
        ends = f"M{low:.1f} {middle - 5}v10M{high:.1f} {middle - 5}v10"
        parts.append(f'<path class="whisker" d="M{low:.1f} {middle}H{high:.1f}{ends}"/>')
    if bar.control is not None:
        width = max(x(bar.control) - x(0), 1)
        parts.append(f'<rect class="control" x="{x(0):.1f}" y="{top + 33}" width="{width:.1f}" height="10" rx="2"/>')
    parts.append(f'<text class="value" x="{x(1) + 14:.1f}" y="{top + 25}">{bar.value:.1%}</text>')
    parts.append(f'<text class="note" x="{x(1) + 14:.1f}" y="{top + 42}">{escape(bar.note)}</text>')
    return parts


def _axes(
    x: Callable[[float], float], y: Callable[[float], float], last_step: int, marks: Sequence[float]
) -> list[str]:
    parts = []
    for value in marks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in ticks(0, last_step, 8):
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 20}" text-anchor="middle">{value:g}</text>'
        )
    parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 4}" text-anchor="end">step</text>')
    parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{_TOP - 18}" text-anchor="end">loss</text>')
    return parts


def _resume_mark(from_step: int, reached_step: int, attempt: int, x: Callable[[float], float]) -> str:
    """The steps that were trained again as a band, the interruption as a line at its right edge."""
    left, right = x(from_step), x(max(reached_step, from_step))
    anchor, edge = ("end", right - 6) if right > _WIDTH - _LABEL_WIDTH else ("start", right + 6)
    width, height = max(right - left, 1), _HEIGHT - _BOTTOM - _TOP + 8
    label_y = _TOP - 16 if attempt % 2 == 0 else _TOP
    return (
        f'<rect class="band" x="{left:.1f}" y="{_TOP - 8}" width="{width:.1f}" height="{height}"/>'
        f'<line class="resume" x1="{right:.1f}" y1="{label_y - 10}" x2="{right:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="resume-label" x="{edge:.1f}" y="{label_y}" text-anchor="{anchor}">'
        f"interrupted at step {reached_step}, attempt {attempt} resumed from {from_step}</text>"
    )


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Mean over the steps around each; short runs are averaged over fewer."""
    span = max(1, min(_SMOOTHING_STEPS, len(points) // 10))
    result = []
    for index, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, index - span // 2) : index + span // 2 + 1]]
        result.append((step, sum(window) / len(window)))
    return result
