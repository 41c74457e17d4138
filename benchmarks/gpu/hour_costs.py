"""Time and memory of the whole model by length, the most important parts first.

    warm up: every kernel tuned and compiled ─ training on the base length and an hour ─ prefill there, with questions
        ─ full attention where it is compared ─ the other lengths ─ one shot ─ the longest training step

What has no time left is named (`hour_report`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from benchmarks.gpu.hour_floors import floor_seconds
from benchmarks.gpu.hour_full import FullAttention
from benchmarks.gpu.hour_model import random_model
from benchmarks.gpu.hour_one_shot import prefill_one_shot, train_one_shot
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.hour_report import Report, Row, clean
from benchmarks.gpu.hour_streamed import ask_questions, prefill_streamed, train_streamed
from benchmarks.gpu.machine import Machine
from vamba.streaming.memory import VideoMemory

_PACE, _ROOM_S = 2.5, 8.0
"""A part is expected to take so many times its floor, until one like it was measured, and some seconds around it."""
_QUESTIONS_S = 15.0
_PINNED_BYTES_PER_S = 3e9
_KEPT_BYTES = 122_000
"""Of a video token in a training step in short chunks, states at their bounds and rounding included."""


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
        measure = partial(train_streamed, self._machine, self._preset, self._model)
        self._run("streamed", "train step", frames, measure, pinned_s)

    def prefill(self, frames: int) -> None:
        self._run("streamed", "prefill", frames, lambda n: self._encode(n)[0])

    def prefill_and_ask(self, frames: int) -> None:
        """Also how long questions take about the video, which is let go of afterwards."""
        kept: list[VideoMemory] = []

        def encode(frames: int) -> Row:
            row, memory = self._encode(frames)
            kept.append(memory)
            return row

        def ask(row: Row) -> None:
            assert row.seconds is not None
            found = ask_questions(self._machine, self._preset, self._model, kept.pop(), row.seconds)
            self._report.note("questions", found)

        self._run("streamed", "prefill", frames, encode, _QUESTIONS_S, then=ask)

    def one_shot(self, frames: int) -> None:
        for passes, call in (("prefill", prefill_one_shot), ("train step", train_one_shot)):
            self._run("one shot", passes, frames, partial(call, self._machine, self._preset, self._model))

    def full(self, frames: int) -> None:
        for passes in ("train step", "prefill"):
            self._run_full(passes, frames, lambda full, passes=passes: self._report.add(full.measure(frames, passes)))

    def full_both_ways(self, frames: int, passes: str) -> None:
        """What a sample says of a length that layers were measured at: how far the sampled ones can be trusted."""

        def compare(full: FullAttention) -> None:
            sampled, whole = (full.measure(frames, passes, sampled=how).seconds for how in (True, False))
            assert sampled is not None and whole is not None
            self._report.note("sampled_over_whole", {"passes": passes, "frames": frames, "ratio": sampled / whole})

        self._run_full(passes, frames, compare)

    def _run_full(self, passes: str, frames: int, part: Callable[[FullAttention], None]) -> None:
        def run() -> None:
            self._full = self._full or FullAttention(self._machine, self._preset, self._model)
            part(self._full)

        expected_s = 2 * self._preset.slice_s + _ROOM_S
        self._report.run(f"full attention, {passes}, {frames:,} frames", expected_s, run)

    def _run(
        self,
        model: str,
        passes: str,
        frames: int,
        measure: Callable[[int], Row],
        more_s: float = 0.0,
        then: Callable[[Row], None] = lambda row: None,
    ) -> None:
        floor_s = floor_seconds(model, passes, self._preset.tokens(frames))
        pace = self._pace.get((model, passes), _PACE)

        def part() -> None:
            row = measure(frames)
            self._report.add(row)
            if row.seconds is not None:
                self._pace[model, passes] = row.seconds / floor_s
            then(row)

        self._report.run(f"{model}, {passes}, {frames:,} frames", pace * floor_s + more_s + _ROOM_S, part)

    def _encode(self, frames: int) -> tuple[Row, VideoMemory]:
        return prefill_streamed(self._machine, self._preset, self._model, frames)


def measure(machine: Machine, preset: Preset, report: Report) -> None:
    """All parts; each has its time checked before it begins."""
    costs = Costs(machine, preset, report)
    report.note("model_s", round(report.elapsed_s, 1))
    report.run("warm-up", 0.0, costs.warm_up)
    short, base, compared, hour, longest = preset.frames
    costs.train(base)
    costs.train(hour)
    costs.prefill(base)
    costs.prefill_and_ask(hour)
    costs.full(compared)
    costs.full(hour)
    costs.train(compared)
    costs.prefill(longest)
    for frames in (compared, short):
        costs.prefill(frames)
    costs.one_shot(base)
    costs.full_both_ways(base, "train step")
    costs.train(short)
    costs.one_shot(short)
    for frames in (compared, hour, longest):
        costs.one_shot(frames)
    for frames in (base, short, longest):
        costs.full(frames)
    costs.train(longest)
