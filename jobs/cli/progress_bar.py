"""A long step in one line: a bar, how much of it is done, how fast, and how long it will still take."""

from __future__ import annotations

import time

_CELLS = 24


class ProgressBar:
    """The rate is the mean since `started_s`, of the monotonic clock."""

    def __init__(self, name: str, unit: str, started_s: float) -> None:
        self._name, self._unit, self._started_s = name, unit, started_s

    def line(self, done: int, total: int) -> str:
        """`ask [######······] 812/3600 frames, 151/s, 0:18 left`"""
        elapsed_s = time.monotonic() - self._started_s
        return bar_line(self._name, self._unit, done, total, elapsed_s)


def bar_line(name: str, unit: str, done: int, total: int, elapsed_s: float) -> str:
    """The line after `elapsed_s`; without a rate as long as there is none."""
    filled = _CELLS * done // max(1, total)
    line = f"{name} [{'#' * filled}{'.' * (_CELLS - filled)}] {done}/{total} {unit}"
    if not done or elapsed_s <= 0:
        return line
    rate = done / elapsed_s
    left_s = round((total - done) / rate)
    return f"{line}, {rate:.3g}/s, {left_s // 60}:{left_s % 60:02d} left"
