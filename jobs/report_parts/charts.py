"""Charts as inline SVG, drawn by hand: no script, no font, no request. Colours are classes that the page's style
defines.

Coordinates are pixels of the view box; the page scales it to its width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from jobs.report_parts.facts import RunFacts

_WIDTH, _HEIGHT = 1000, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 16, 40, 40
_SMOOTHING_STEPS = 12
_MAX_POINTS = 1500
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
    x = _scale(0, max(last_step, 1), _LEFT, _WIDTH - _RIGHT)
    y, ticks = _loss_axis([loss for _, loss in (*run.losses, *run.replayed)])
    parts = [*_axes(x, y, last_step, ticks)]
    parts += [_resume_mark(resume.from_step, resume.reached_step, resume.attempt, x) for resume in run.resumes]
    parts.append(_line(_thinned(run.losses), x, y, "raw"))
    parts.append(_line(_thinned(_smoothed(run.losses)), x, y, "curve"))
    parts += [
        f'<circle class="replayed" cx="{x(step):.1f}" cy="{y(loss):.1f}" r="2.8"/>' for step, loss in run.replayed
    ]
    title = f"Loss of run {escape(run.name)} over {last_step} steps"
    return _svg(_WIDTH, _HEIGHT, title, parts)


def accuracy_chart(bars: Sequence[Bar], chance: float | None) -> str:
    """One row per group: accuracy over its shuffled-video control, and the line of chance."""
    left, right, row, top = 190, 190, 58, 34
    height = top + row * len(bars) + 34
    x = _scale(0, 1, left, _WIDTH - right)
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
    return _svg(_WIDTH, height, "Accuracy by video length, with the shuffled-video control", parts)


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
    x: Callable[[float], float], y: Callable[[float], float], last_step: int, ticks: Sequence[float]
) -> list[str]:
    parts = []
    for value in ticks:
        parts.append(
            f'<line class="grid" x1="{_LEFT}" y1="{y(value):.1f}" x2="{_WIDTH - _RIGHT}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 8}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}</text>')
    for value in _ticks(0, last_step, 8):
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


def _line(
    points: Sequence[tuple[int, float]], x: Callable[[float], float], y: Callable[[float], float], kind: str
) -> str:
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in points)
    return f'<polyline class="{kind}" points="{path}"/>'


def _smoothed(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Mean over the steps around each; short runs are averaged over fewer."""
    span = max(1, min(_SMOOTHING_STEPS, len(points) // 10))
    result = []
    for index, (step, _) in enumerate(points):
        window = [value for _, value in points[max(0, index - span // 2) : index + span // 2 + 1]]
        result.append((step, sum(window) / len(window)))
    return result


def _thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    stride = max(1, len(points) // _MAX_POINTS)
    kept = list(points[::stride])
    return kept if kept[-1] == points[-1] else [*kept, points[-1]]


def _loss_axis(losses: Sequence[float]) -> tuple[Callable[[float], float], list[float]]:
    """Height of a loss and the values to mark: logarithmic where losses fall by more than a factor of 20, since on a
    linear axis everything after the first steps would lie on the ground."""
    finite = [value for value in losses if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if low > 0 and high / low > 20:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        height = _scale(first, last, _HEIGHT - _BOTTOM, _TOP)
        return lambda value: height(math.log10(max(value, 10.0**first))), [
            10.0**power for power in range(first, last + 1)
        ]
    low = min(0.0, low)
    high = high * 1.04 if high > low else low + 1.0
    return _scale(low, high, _HEIGHT - _BOTTOM, _TOP), _ticks(low, high, 5)


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def _ticks(low: float, high: float, count: int) -> list[float]:
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]


def _svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )
