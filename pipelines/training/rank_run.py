"""What the training loop is given to reach beyond its process: records, checkpoints, requests, signs of life.

StepResult ──> metrics/attempt-0001.jsonl (rank 0)      stop file, preemption notice ──> stop, save
TrainState ──> CheckpointStore, Evaluator, Rewinder     every phase ──> Watchdog
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Collection
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pipelines.durable import sync
from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.evaluations import Evaluator
from pipelines.training.json_lines import append_line
from pipelines.training.measures import StepMeasures
from pipelines.training.preemption import PreemptionSaves
from pipelines.training.profiling import Profiling
from pipelines.training.rewind import Rewinder
from pipelines.training.run_directory import RunDirectory
from pipelines.training.run_log import try_event
from pipelines.training.watchdog import Watchdog
from vamba.data.reader_config import ReaderConfig

if TYPE_CHECKING:
    from vamba.train.state import TrainState
    from vamba.train.step import StepResult


class UnrecordedStepsError(RuntimeError):
    """Steps could not be written to the metrics file, so no checkpoint may contain them."""


class RankRun:
    """The loop's `Run`: metrics of rank 0 to a file, checkpoints to the store, stop requests from the run directory,
    signs of life to the watchdog."""

    def __init__(
        self,
        directory: RunDirectory,
        store: CheckpointStore,
        reader: ReaderConfig,
        *,
        attempt: int,
        rank: int,
        labels: dict[str, Any],
        unreadable: Collection[str],
        rewinder: Rewinder,
        evaluator: Evaluator | None,
        measures: StepMeasures,
        watchdog: Watchdog,
        saves: PreemptionSaves,
        step: int,
    ) -> None:
        """unreadable: ids of samples that earlier attempts could not read. step: number of steps done."""
        self._rewinder, self._evaluator, self._measures = rewinder, evaluator, measures
        self._profiling = Profiling(directory, on_gpu=measures.on_gpu) if rank == 0 else None
        self._directory, self._store, self._labels = directory, store, labels
        self._max_unreadable, self._unreadable = reader.max_unreadable_samples, set(unreadable)
        self._rank, self._attempt, self._step = rank, attempt, step
        self._saved_step = step
        self._phase = "first step"
        self._watchdog, self._saves = watchdog, saves
        self._unrecorded: deque[dict[str, Any]] = deque()
        self._record_error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._profiling is not None:
            self._profiling.close(self._step)

    def stop_requested(self) -> bool:
        self._save_due()  # sees a notice
        return self._directory.stop_path.exists() or self._saves.leave_due()

    def save_requested(self) -> bool:
        self._watchdog.enter(self._phase, self._step)
        return self._save_due()

    def interrupted(self) -> bool:
        """Whether a wait for data should end without them: asked to stop, or to save what has not been saved."""
        due = self._save_due()
        return self.stop_requested() or (due and self._step != self._saved_step)

    def report(self, result: StepResult) -> None:
        self._step, self._phase = result.step, "step"
        self._saves.step_took(sum(result.seconds.values()))
        if self._rank == 0:
            self._unrecorded.append(_record_of(result) | self._measures.of(result))
            self._record_steps()
            if result.skipped is not None:
                self._directory.append_event(
                    "step_skipped", step=result.step, reason=result.skipped, loss=result.loss,
                    grad_norm=result.grad_norm, sample_ids=result.sample_ids,
                )  # fmt: skip
        if self._profiling is not None:
            self._profiling.after_step(result.step)
        self._unreadable.update(result.unreadable)
        if len(self._unreadable) > self._max_unreadable:
            raise ValueError(
                f"{len(self._unreadable)} samples can't be read, and reader.max_unreadable_samples allows "
                f"{self._max_unreadable}: {', '.join(sorted(self._unreadable)[:8])}. Where each is and why stands in "
                f"{self._directory.events_path}. Restore the shards (`vamba data verify` finds them), or allow more."
            )
        self._watchdog.enter("data", self._step)

    def save(self, state: TrainState, *, durable: bool) -> None:
        self._record_steps()
        if self._unrecorded:
            steps = [record["step"] for record in self._unrecorded]
            raise UnrecordedStepsError(
                f"Steps {steps[0]} to {steps[-1]} of run {self._directory.name!r} could not be recorded "
                f"({self._record_error}), so no checkpoint may hold them. Make room, then run the same command: it "
                "continues from the newest checkpoint."
            )
        if self._rank == 0:
            sync(self._directory.metrics_path(self._attempt))
        with self._watchdog.phase("save"):
            if state.step != self._saved_step:
                held_s = self._store.save(state, self._labels)
                self._saved_step = state.step
                if self._rank == 0 and not durable:
                    try_event(self._directory, "checkpoint_begun", step=state.step, held_s=round(held_s, 5))
            if durable:
                self._store.wait()
        self._saves.saved()

    def rewind(self, state: TrainState) -> None:
        self._rewinder.rewind(state, partial(self.save, durable=True))

    def evaluate(self, state: TrainState) -> bool:
        if self._evaluator is None:
            return True
        from vamba.train.evaluation import Requests  # loads torch

        requests = Requests(
            stop=self._stop_requested_in_evaluation,
            save=lambda: self._save_due() and self._step != self._saved_step,
            do_save=partial(self.save, state, durable=False),
        )
        with self._watchdog.phase("evaluation"):
            return self._evaluator.evaluate(state, requests)

    def _stop_requested_in_evaluation(self) -> bool:
        self._watchdog.still_alive()
        return self.stop_requested()

    def _record_steps(self) -> None:
        """Write what is left to write; what a full disk refuses is kept for the next time."""
        while self._unrecorded:
            try:
                append_line(self._directory.metrics_path(self._attempt), self._unrecorded[0])
            except OSError as error:
                if self._record_error is None:
                    text = f"step {self._unrecorded[0]['step']} can't be recorded yet: {error}"
                    try_event(self._directory, "notice", text=text)
                self._record_error = error
                return
            self._unrecorded.popleft()
        self._record_error = None

    def _save_due(self) -> bool:
        if self._rank != 0:
            return False
        notice = self._saves.new_notice()
        if notice is not None:
            left_s = None if notice.deadline is None else round(notice.deadline - time.time(), 1)
            try_event(self._directory, "preemption_announced", ranks=notice.ranks, left_s=left_s, step=self._step)
        return self._saves.save_due()


def _record_of(result: StepResult) -> dict[str, Any]:
    """A line of the metrics file."""
    record = asdict(result)
    del record["stop_requested"], record["save_requested"]
    record["seconds"] = {phase: round(seconds, 6) for phase, seconds in result.seconds.items()}
    return {**record, "time": round(time.time(), 3)}
