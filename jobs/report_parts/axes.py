"""What every chart is made of: scales, ticks, thinned lines, the svg element."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

MAX_POINTS = 1500

Scale = Callable[[float], float]
"""Value -> pixel."""


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Linear between `low` and `high`, and held at the ends."""
    return lambda value: start + (min(max(value, low), high) - low) / (high - low) * (end - start)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values between `low` and `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough)
    first = math.ceil(low / step)
    return [round(index * step, 10) for index in range(first, math.floor(high / step) + 1)]


def value_axis(
    values: Sequence[float], bottom: float, top: float, count: int, *, is_share: bool = False
) -> tuple[Scale, list[float]]:
    """Height of a value and the values to mark: logarithmic where they differ by more than a factor of 20, since on a
    linear axis all but the largest would lie on the ground. is_share: then they may lie there."""
    finite = [value for value in values if math.isfinite(value)] or [0.0]
    low, high = min(finite), max(finite)
    if low > 0 and high / low > 20 and not is_share:
        first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
        height = scale(first, last, bottom, top)
        marks = [10.0**power for power in range(first, last + 1, math.ceil((last - first) / 6))]
        return lambda value: height(math.log10(max(value, 10.0**first))), marks
    low = min(0.0, low)
    high = high * 1.04 if high > low else low + 1.0
    return scale(low, high, bottom, top), ticks(low, high, count)


def line(points: Sequence[tuple[int, float]], x: Scale, y: Scale, kind: str) -> str:
    """A polyline of class `kind`; a value that is not finite is left out."""
    path = " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in thinned(points) if math.isfinite(value))
    return f'<polyline class="{kind}" points="{path}"/>'


def thinned(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most about `MAX_POINTS` of them, the last always."""
    stride = max(1, len(points) // MAX_POINTS)
    kept = list(points[::stride])
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def svg(width: float, height: float, title: str, parts: Sequence[str]) -> str:
    """The picture, with its title for those who can't see it."""
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}"><title>{escape(title)}</title>'
        f"{''.join(parts)}</svg>"
    )
