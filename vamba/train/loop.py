"""The training loop. Everything that outlives this process goes through `run`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Protocol

from vamba.data.plan import PlanState
from vamba.data.reader import StepInput
from vamba.train.state import TrainState
from vamba.train.step import StepAbandonedError, StepResult, train_step


class Run(Protocol):
    """What a launcher gives the loop. All but the first two are called on all ranks at the same step."""

    def stop_requested(self) -> bool:
        """Whether this rank has been asked to stop; asked before every step, and by `evaluate` once a round."""

    def save_requested(self) -> bool:
        """Whether this rank has been asked to save after the step that begins now."""

    def report(self, result: StepResult) -> None:
        """Record a finished step."""

    def save(self, state: TrainState, *, durable: bool) -> None:
        """Begin to save the state; with `durable`, return when it is on the disk. Once for a step is enough."""

    def rewind(self, state: TrainState) -> None:
        """Do what `state.guard.due` asks for, and return when that is on the disk."""

    def evaluate(self, state: TrainState) -> bool:
        """Evaluate the state unless that has been done at this step; False when asked to stop before the end."""


def fit(state: TrainState, batches: Iterator[tuple[StepInput, PlanState]], run: Run) -> bool:
    """Train until state.num_steps; returns False when asked to stop before, with the state saved.

    A step is recorded before the checkpoint that contains it, so that a run which dies between the two repeats recorded
    steps and can compare, rather than miss some. The evaluation comes last: if it is cut short, the step's checkpoint
    is there, and the run that resumes from it evaluates first.
    """
    if not _evaluated(state, run):
        return False
    held_back: tuple[StepInput, PlanState] | None = None
    while state.step < state.num_steps:
        waiting = time.perf_counter()
        inputs, reader_state = held_back or next(batches)
        waited_s = time.perf_counter() - waiting
        try:
            result = train_step(state, inputs, stop=run.stop_requested(), save=run.save_requested())
        except StepAbandonedError as abandoned:
            run.save(state, durable=abandoned.stop)
            if abandoned.stop:
                return False
            held_back = None if inputs.abandoned else (inputs, reader_state)
            continue
        held_back = None
        state.advance(reader_state)
        run.report(replace(result, seconds={"data": waited_s, **result.seconds}))
        if state.guard.due is not None:
            run.rewind(state)
        finished = state.step == state.num_steps
        is_last = finished or result.stop_requested
        if is_last or result.save_requested or state.step % state.config.checkpoint_every_steps == 0:
            run.save(state, durable=is_last)
        if result.stop_requested and not finished:
            return False
        if not _evaluated(state, run):
            run.save(state, durable=True)
            return False
    return True


def _evaluated(state: TrainState, run: Run) -> bool:
    """Whether an evaluation due at this step is done, or none is due."""
    every = state.config.evaluate_every_steps
    return not every or state.step == 0 or state.step % every != 0 or run.evaluate(state)
