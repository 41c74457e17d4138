"""What `benchmarks.gpu.hour` found so far, on disk after each finding, and how much of its time is left."""

from __future__ import annotations

import gc
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.hour_floors import floor_seconds
from benchmarks.gpu.machine import Machine, problem_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measured pass. model: `streamed`, `one shot` or `full attention`. passes: `prefill` or `train step`.

    peak_bytes, reserved_bytes: of the GPU, weights and all; None where there is none. needs_bytes: what it would take
    at least, where only a part ran. how: what was run, or why nothing was.
    """

    model: str
    passes: str
    frames: int
    tokens: int
    seconds: float | None = None
    peak_bytes: int | None = None
    reserved_bytes: int | None = None
    needs_bytes: int | None = None
    how: str = ""
    problem: str | None = None

    def to_dict(self) -> dict[str, Any]:
        found = asdict(self) | {"floor_s": floor_seconds(self.model, self.passes, self.tokens)}
        if self.seconds is not None:
            found |= {"of_floor": self.seconds / found["floor_s"], "tokens_per_s": self.tokens / self.seconds}
        return found


class Report:
    """A dictionary that is written whenever something comes in, and the clock of the script.

    A part that raises is a finding: what went wrong is noted, and the rest goes on.
    """

    def __init__(self, out: Path, machine: Machine, limit_s: float, values: dict[str, Any]) -> None:
        self.values: dict[str, Any] = values | {"rows": [], "skipped": [], "problems": []}
        self._out, self._machine = out, machine
        self._started, self._limit_s = time.monotonic(), limit_s
        out.parent.mkdir(parents=True, exist_ok=True)
        self.write()

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self._started

    @property
    def left_s(self) -> float:
        return self._limit_s - self.elapsed_s

    def write(self) -> None:
        self.values["seconds"] = self.elapsed_s
        temporary = self._out.with_name(self._out.name + ".part")
        temporary.write_text(json.dumps(self.values, indent=1) + "\n")
        os.replace(temporary, self._out)

    def add(self, row: Row) -> None:
        """Note a measured pass, and print it."""
        self.values["rows"].append(row.to_dict())
        self.write()
        say(f"{self.elapsed_s:5.0f} s  {line_of(self.values['rows'][-1])}")

    def note(self, key: str, value: Any) -> None:
        """Note anything else, and print it."""
        self.values[key] = value
        self.write()
        say(f"{self.elapsed_s:5.0f} s  {key}: {value}")

    def run(self, name: str, expected_s: float, part: Callable[[], None]) -> None:
        """A part, if there is time for what it is expected to take."""
        if expected_s > self.left_s:
            self.values["skipped"].append(f"{name}: {expected_s:.0f} s expected, {self.left_s:.0f} s left")
            say(f"{self.elapsed_s:5.0f} s  skipped {self.values['skipped'][-1]}")
            self.write()
            return
        problem = None
        try:
            part()
        except Exception as error:
            problem = problem_of(error)
        if problem is not None:  # outside of `except`, whose traceback holds what the part had in memory
            self.values["problems"].append(f"{name}: {problem}")
            say(f"{self.elapsed_s:5.0f} s  problem in {self.values['problems'][-1]}")
            self.write()
        clean(self._machine)


def clean(machine: Machine) -> None:
    """Let go of what nothing needs, on the GPU and of pinned memory."""
    gc.collect()
    if machine.is_gpu:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        empty_pinned = getattr(torch._C, "_host_emptyCache", None)
        if empty_pinned is not None:
            empty_pinned()


def line_of(row: dict[str, Any]) -> str:
    """A row of the table."""
    label = f"{row['model']:15} {row['passes']:10} {row['frames']:6,} {row['tokens']:10,}"
    memory = [_gib(row["peak_bytes"]), _gib(row["reserved_bytes"]), _gib(row["needs_bytes"])]
    if row["seconds"] is None:
        return f"{label} {'':9} {row['floor_s']:8.2f} {'':6} {'':9} {' '.join(memory)}  {row['problem'] or row['how']}"
    figures = f"{row['seconds']:9.2f} {row['floor_s']:8.2f} {row['of_floor']:6.2f} {row['tokens_per_s']:9,.0f}"
    return f"{label} {figures} {' '.join(memory)}  {row['how']}"


HEADER = (
    f"{'model':15} {'passes':10} {'frames':>6} {'tokens':>10} {'seconds':>9} {'floor':>8} {'ratio':>6} {'tokens/s':>9} "
    f"{'peak':>6} {'held':>6} {'needs':>6}  GiB"
)


def _gib(count: int | None) -> str:
    return f"{'':6}" if count is None else f"{count / 2**30:6.1f}"


def say(text: str) -> None:
    print(text, flush=True)
