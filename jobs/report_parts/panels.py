"""Small charts of many lines over steps, and the section of a report that holds them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from jobs.report_parts.axes import line, scale, svg, ticks, value_axis
from jobs.report_parts.run_history import Panel, RunHistory

_WIDTH, _HEIGHT = 520, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 12, 26, 28
_NUM_COLOURS = 8
_MOST_NAMES = 8


def panel_chart(panel: Panel, attempts: Sequence[int]) -> str:
    """The lines of a panel, each in a colour; a dashed line where an attempt began. attempts: the steps before that."""
    points = [point for line_points in panel.lines.values() for point in line_points]
    last_step = max(step for step, _ in points)
    x = scale(0, max(last_step, 1), _LEFT, _WIDTH - _RIGHT)
    y, marks = value_axis([value for _, value in points], _HEIGHT - _BOTTOM, _TOP, 4, is_share=panel.is_share)
    parts = [f'<text class="title" x="{_LEFT}" y="14">{escape(panel.title)}</text>']
    if panel.unit:
        parts.append(f'<text class="tick" x="{_WIDTH - _RIGHT}" y="14" text-anchor="end">{escape(panel.unit)}</text>')
    for value in marks:
        height = y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{height:.1f}" x2="{_WIDTH - _RIGHT}" y2="{height:.1f}"/>')
        label = f'x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end"'
        parts.append(f'<text class="tick" {label}>{_number(value)}</text>')
    for value in ticks(0, max(last_step, 1), 6):
        if value == int(value):
            place = f'x="{x(value):.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle"'
            parts.append(f'<text class="tick" {place}>{int(value)}</text>')
    parts += [
        f'<line class="resume" x1="{x(step):.1f}" y1="{_TOP}" x2="{x(step):.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        for step in attempts
        if step
    ]
    parts += [
        line(line_points, x, y, f"s s{number % _NUM_COLOURS}")
        for number, line_points in enumerate(panel.lines.values())
    ]
    return f"<figure>{svg(_WIDTH, _HEIGHT, panel.title, parts)}{_names(panel)}</figure>"


def history_content(history: RunHistory) -> str:
    """Charts, attempts and events of a run, as HTML."""
    began = [attempt.from_step for attempt in history.attempts]
    charts = "".join(panel_chart(panel, began) for panel in history.panels)
    rows = [
        (a.number, a.from_step or "start", "none" if a.last_step is None else a.last_step, a.workers, a.host, a.started)
        for a in history.attempts
    ]
    text = f'<div class="panels">{charts}</div>'
    text += _table(("attempt", "from step", "last step", "workers", "host", "started (UTC)"), rows)
    if history.checkpoint_steps:
        text += (
            f"<p>{len(history.checkpoint_steps)} checkpoints were begun while training went on, the last at step "
            f"{history.checkpoint_steps[-1]}; each held its step for {1e3 * history.held_s:.0f} ms.</p>"
        )
    text += _table(("when (UTC)", "what happened", ""), history.events)
    if history.num_events_left_out:
        text += f"<p>{history.num_events_left_out} earlier events are in the run's events.jsonl.</p>"
    return text


def _names(panel: Panel) -> str:
    names = [name for name in panel.lines if name]
    if not names:
        return ""
    shown = names if len(names) <= _MOST_NAMES else [names[0], names[-1]]
    spans = "".join(f'<span><i class="k{names.index(name) % _NUM_COLOURS}"></i>{escape(name)}</span>' for name in shown)
    return f'<figcaption class="legend">{spans}{"<span>and between</span>" if shown != names else ""}</figcaption>'


def _number(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}" if math.isfinite(value) else ""


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    if not rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'
