"""Ends a rank that hangs, after writing down what every thread of every rank was doing.

    RankRun ── enter(phase, step) ──> Watchdog, a thread of each rank ── nothing new for too long? ──┐
                                                                                                     │
      control/hang-0001 (whoever is first) ──> all ranks: stacks/attempt-0001-rank-N.txt <───────────┘
      events: who was where, who is suspected ──> the process ends with HUNG_EXIT_CODE
                                              ──> the launcher starts the group again, which resumes

Where one rank hangs, the others wait for it in a collective and look just as still. So none is ended before all have
written their stacks, and what they wrote tells them apart: a rank that doesn't answer, or that waits for nobody.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO, Any, Self

from pipelines.training.run_directory import RunDirectory
from pipelines.training.run_log import try_event

HUNG_EXIT_CODE = 76
# How many times `workers.hang_timeout_s` a phase may last; 1 where it isn't named. A first step compiles kernels.
PATIENCE = {"set-up": 3.0, "first step": 3.0, "save": 2.0, "evaluation": 2.0, "export": 3.0}
_LONGEST_TICK_S = 5.0
_LAST_RESORT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStacks:
    """Where a rank was when its stacks were written. step: the last one it has finished. for_s: time in that phase.

    waits_for_others: its training thread was inside a collective operation.
    """

    rank: int
    phase: str
    step: int
    for_s: float
    waits_for_others: bool


def suspects(found: Sequence[RankStacks], world_size: int) -> tuple[int, ...]:
    """The ranks that probably hang; empty when the stacks don't tell."""
    silent = {*range(world_size)} - {stacks.rank for stacks in found}
    alone = [stacks for stacks in found if not stacks.waits_for_others]
    behind = min((stacks.step for stacks in alone), default=0)
    hanging = [stacks.rank for stacks in alone if stacks.step == behind]
    chosen = silent or ({*hanging} if len(hanging) < world_size or world_size == 1 else set())
    return tuple(sorted(chosen))


class Watchdog:
    """Watches the thread that made it. Nothing is watched outside the `with` block, or with `timeout_s` 0."""

    def __init__(
        self,
        directory: RunDirectory,
        *,
        attempt: int,
        rank: int,
        world_size: int,
        timeout_s: float,
        end: Callable[[int], Any] = os._exit,
    ) -> None:
        self._directory, self._attempt, self._rank, self._world_size = directory, attempt, rank, world_size
        self._timeout_s, self._end = timeout_s, end
        self._watched = threading.current_thread()
        self._tick_s = min(_LONGEST_TICK_S, timeout_s / 10)
        self._now: tuple[str, int, float] = ("set-up", 0, time.monotonic())
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._file: IO[str] | None = None
        self._request = directory.stop_path.with_name(f"hang-{attempt:04d}")

    def __enter__(self) -> Self:
        if self._timeout_s > 0:
            path = self._directory.root / "stacks" / f"attempt-{self._attempt:04d}-rank-{self._rank}.txt"
            path.parent.mkdir(exist_ok=True)
            # Open from the start: when it is needed, the disk or the interpreter may be what hangs.
            self._file = path.open("w")
            self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        if self._file is not None:
            self._thread.join()
            faulthandler.cancel_dump_traceback_later()
            self._file.close()
            os.unlink(self._file.name)

    def enter(self, phase: str, step: int) -> None:
        """The rank begins a phase, or something new in it. step: the last one that is finished."""
        self._now = (phase, step, time.monotonic())

    def still_alive(self) -> None:
        """Something in the current phase has ended, for example one video of an evaluation."""
        phase, step, _ = self._now
        self._now = (phase, step, time.monotonic())

    @contextmanager
    def phase(self, phase: str) -> Iterator[None]:
        """A phase within the present one, which begins anew after it."""
        before, step, _ = self._now
        self.enter(phase, step)
        try:
            yield
        finally:
            self.enter(before, self._now[1])

    def _watch(self) -> None:
        while not self._closing.wait(self._tick_s):
            phase, _, since = self._now
            limit_s = self._timeout_s * PATIENCE.get(phase, 1.0)
            # A thread of the C library ends the process where native code holds the interpreter, and with it this loop.
            self._arm(since + limit_s - time.monotonic() + self._timeout_s)
            if self._request.exists():
                return self._answer()
            if time.monotonic() - since > limit_s:
                return self._accuse()

    def _arm(self, seconds: float) -> None:
        assert self._file is not None
        faulthandler.dump_traceback_later(max(seconds, _LAST_RESORT_S), exit=True, file=self._file)

    def _accuse(self) -> None:
        """This rank is the first to see that nothing goes on: have all write their stacks, tell who hangs, and end."""
        self._arm(_LAST_RESORT_S)
        own = self._write_stacks()
        try:
            os.close(os.open(self._request, os.O_CREAT | os.O_EXCL))
        except OSError:
            return self._wait_to_be_ended()
        time.sleep(4 * self._tick_s)
        found = [
            RankStacks(**{key: event[key] for key in RankStacks.__dataclass_fields__})
            for event in self._directory.read_events()
            if event["event"] == "stacks_written" and event["attempt"] == self._attempt
        ]
        accused = suspects(found, self._world_size)
        try_event(self._directory, "worker_hung", attempt=self._attempt, suspects=accused, **asdict(own))
        self._end(HUNG_EXIT_CODE)

    def _answer(self) -> None:
        """Another rank has asked for the stacks of all."""
        self._arm(_LAST_RESORT_S)
        self._write_stacks()
        self._wait_to_be_ended()

    def _wait_to_be_ended(self) -> None:
        """The launcher ends a group that has lost a rank; where none does, this rank ends itself."""
        self._closing.wait(12 * self._tick_s)
        self._end(HUNG_EXIT_CODE)

    def _write_stacks(self) -> RankStacks:
        assert self._file is not None
        phase, step, since = self._now
        stacks = RankStacks(
            rank=self._rank,
            phase=phase,
            step=step,
            for_s=round(time.monotonic() - since, 3),
            waits_for_others=self._waits_for_others(),
        )
        print(f"rank {self._rank}, process {os.getpid()}: {phase} after step {step}, for {stacks.for_s} s\n",
              file=self._file, flush=True)  # fmt: skip
        faulthandler.dump_traceback(file=self._file, all_threads=True)
        try_event(self._directory, "stacks_written", attempt=self._attempt, **asdict(stacks))
        return stacks

    def _waits_for_others(self) -> bool:
        frames = sys._current_frames()
        innermost = _innermost_file(frames, self._watched)
        if innermost.endswith("threading.py"):  # joins the thread that writes a checkpoint
            writers = (thread for thread in threading.enumerate() if thread.name == "checkpoint")
            return any(_is_collective(_innermost_file(frames, thread)) for thread in writers)
        return _is_collective(innermost)


def _innermost_file(frames: dict[int, Any], thread: threading.Thread) -> str:
    frame = frames.get(thread.ident or 0)
    return str(frame.f_code.co_filename) if frame is not None else ""


def _is_collective(file: str) -> bool:
    return f"torch{os.sep}distributed{os.sep}" in file
