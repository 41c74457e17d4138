"""Time and memory of the whole model by length, the most important first.

    warm up: every kernel tuned and compiled ─ training on the base length and an hour ─ prefill there, with questions, and of
    the longest ─ full attention where it is compared ─ the other lengths ─ one shot ─ the longest training step
"""

from __future__ import annotations

from typing import Any

from benchmarks.gpu.hour_floors import floor_seconds
from benchmarks.gpu.hour_full import FullAttention
from benchmarks.gpu.hour_model import random_model
from benchmarks.gpu.hour_one_shot import prefill_one_shot, train_one_shot
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.hour_report import Report, Row, clean
from benchmarks.gpu.hour_streamed import ask_questions, prefill_streamed, train_streamed
from benchmarks.gpu.machine import Machine

_PACE, _ROOM_S = 2.5, 8.0
"""A part is expected to take so many times its floor, until one like it was measured, and some seconds around it."""
_PINNED_BYTES_PER_S = 3e9
_KEPT_BYTES = 90_000
"""Of a video token in a training step, states at chunk bounds and rounding included."""


class Costs:
    """The parts, each with its expected time."""

    def __init__(self, machine: Machine, preset: Preset, report: Report) -> None:
        self._machine, self._preset, self._report = machine, preset, report
        self._model = random_model(preset.model, machine, machine.low_precision)
        self._pace: dict[tuple[str, str], float] = {}
        self._full: FullAttention | None = None
        clean(machine)

    def warm_up(self) -> None:
        """Compile and tune; what is not compiled yet takes a while."""
        for frames in self._preset.warm_frames:
            train_streamed(self._machine, self._preset, self._model, frames)
            prefill_streamed(self._machine, self._preset, self._model, frames)
        self._report.note("backends", self._model.ops.names.to_dict())

    def train(self, frames: int) -> None:
        pinned_s = self._preset.tokens(frames) * _KEPT_BYTES / _PINNED_BYTES_PER_S if self._machine.is_gpu else 0.0
        self._run("streamed", "train step", frames, self._train, pinned_s)

    def prefill(self, frames: int, *, questions: bool = False) -> None:
        self._run("streamed", "prefill", frames, self._ask if questions else self._prefill, 12.0 * questions)

    def one_shot(self, frames: int) -> None:
        for passes, call in (("prefill", prefill_one_shot), ("train step", train_one_shot)):
            self._run("one shot", passes, frames, lambda n, call=call: call(self._machine, self._preset, self._model, n))

    def full(self, frames: int, *, sampled: bool | None = None) -> None:
        """sampled: as `FullAttention.measure`."""
        for passes in ("train step", "prefill"):
            name = f"full attention, {passes}, {frames:,} frames"

            def part(passes: str = passes) -> None:
                self._full = self._full or FullAttention(self._machine, self._preset, self._model)
                row = self._full.measure(frames, passes, sampled=sampled)
                if sampled:
                    # What a sample says beside what was said by whole layers: no row of its own.
                    whole = self._report.values["rows"]
                    of_whole = [r["seconds"] for r in whole if self._key(r) == ("full attention", passes, frames)]
                    self._report.note(f"sampled over whole, {passes}", [row.seconds / s for s in of_whole if row.seconds])
                else:
                    self._report.add(row)

            self._report.run(name, 2 * self._preset.slice_s + _ROOM_S, part)

    @staticmethod
    def _key(row: dict[str, Any]) -> tuple[str, str, int]:
        return row["model"], row["passes"], row["frames"]

    def _run(self, model: str, passes: str, frames: int, measure: Any, more_s: float = 0.0) -> None:
        floor_s = floor_seconds(model, passes, self._preset.tokens(frames))
        pace = self._pace.get((model, passes), _PACE)

        def part() -> None:
            row: Row = measure(frames)
            self._report.add(row)
            if row.seconds is not None:
                self._pace[model, passes] = row.seconds / floor_s

        self._report.run(f"{model}, {passes}, {frames:,} frames", pace * floor_s + more_s + _ROOM_S, part)

    def _train(self, frames: int) -> Row:
        return train_streamed(self._machine, self._preset, self._model, frames)

    def _prefill(self, frames: int) -> Row:
        return prefill_streamed(self._machine, self._preset, self._model, frames)[0]

    def _ask(self, frames: int) -> Row:
        row, memory = prefill_streamed(self._machine, self._preset, self._model, frames)
        assert row.seconds is not None
        self._report.add(row)
        self._report.note("questions", ask_questions(self._machine, self._preset, self._model, memory, row.seconds))
        return row


def measure(machine: Machine, preset: Preset, report: Report) -> None:
    """All parts; each has its time checked before it begins."""
    costs = Costs(machine, preset, report)
    report.note("model_s", round(report.elapsed_s, 1))
    report.run("warm-up", 0.0, costs.warm_up)
    short, base, compared, hour, longest = preset.frames
    costs.train(base)
    costs.train(hour)
    costs.prefill(base)
    costs.prefill(hour, questions=True)
    costs.full(compared)
    costs.full(hour)
    costs.train(compared)
    costs.prefill(longest)
    for frames in (compared, short):
        costs.prefill(frames)
    costs.one_shot(base)
    costs.full(compared, sampled=True)
    costs.train(short)
    costs.one_shot(short)
    for frames in (compared, hour, longest):
        costs.one_shot(frames)
    for frames in (base, short, longest):
        costs.full(frames)
    costs.train(longest)
