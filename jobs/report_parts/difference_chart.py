"""The differences of two evaluations as an SVG: a row per group, a dot with the whiskers of its interval, zero in the
middle of what is shown."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from jobs.report_parts.axes import Scale, scale, svg, ticks

if TYPE_CHECKING:
    from pipelines.evaluation.comparison import GroupDifference

_WIDTH, _LEFT, _RIGHT, _TOP, _ROW = 1000, 290, 190, 34, 30
_LEAST_REACH = 0.05
_LONGEST_LABEL = 40


def difference_chart(groups: Sequence[GroupDifference]) -> str:
    """B - A by group, in percentage points, as far to either side as the widest interval reaches."""
    ends = [abs(end) for group in groups for end in (group.difference, group.low, group.high) if end is not None]
    reach = max(_LEAST_REACH, *ends)
    x = scale(-reach, reach, _LEFT, _WIDTH - _RIGHT)
    bottom = _TOP + _ROW * len(groups)
    parts = []
    for value in ticks(-100 * reach, 100 * reach, 8):
        position = x(value / 100)
        kind = "zero" if value == 0 else "grid"
        parts.append(f'<line class="{kind}" x1="{position:.1f}" y1="{_TOP - 8}" x2="{position:.1f}" y2="{bottom}"/>')
        label = f'x="{position:.1f}" y="{bottom + 18}" text-anchor="middle"'
        parts.append(
            f'<text class="tick" {label}>{value:+g}</text>' if value else f'<text class="tick" {label}>0</text>'
        )
    parts.append(f'<text class="note" x="{x(0) - 12:.1f}" y="{_TOP - 16}" text-anchor="end">← A is better</text>')
    parts.append(f'<text class="note" x="{x(0) + 12:.1f}" y="{_TOP - 16}">B is better →</text>')
    for index, group in enumerate(groups):
        parts += _group(group, _TOP + _ROW * index + _ROW / 2, x)
    return svg(_WIDTH, bottom + 28, "Difference of B and A by group, in percentage points", parts)


def _group(group: GroupDifference, middle: float, x: Scale) -> list[str]:
    name = group.name if len(group.name) <= _LONGEST_LABEL else group.name[: _LONGEST_LABEL - 1] + "…"
    kind = {"A": "worse", "B": "better", "": "even"}[group.better]
    parts = [f'<text class="note" x="{_LEFT - 14}" y="{middle + 4:.1f}" text-anchor="end">{escape(name)}</text>']
    if group.low is not None and group.high is not None:
        low, high = x(group.low), x(group.high)
        ends = f"M{low:.1f} {middle - 5:.1f}v10M{high:.1f} {middle - 5:.1f}v10"
        parts.append(f'<path class="whisker" d="M{low:.1f} {middle:.1f}H{high:.1f}{ends}"/>')
    parts.append(f'<circle class="{kind}" cx="{x(group.difference):.1f}" cy="{middle:.1f}" r="5"/>')
    note = f"{group.difference:+.1%} on {group.num_questions}"
    parts.append(f'<text class="note" x="{_WIDTH - _RIGHT + 14}" y="{middle + 4:.1f}">{escape(note)}</text>')
    return parts
