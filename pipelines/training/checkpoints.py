"""The checkpoint store: the one truth about where a run is. Its format is described in docs/checkpoint-format.md.

    save:    copy of the state ──> step_00000040.tmp/ ── DCP shards of every rank ── hash ── meta.json (last) ── rename
             (training waits for the copy)   └────────── in the background ──────────────────> step_00000040/
    restore: newest first ── meta.json whole? every file present, of its size and hash? ── DCP load
             anything wrong ──> step_00000040.quarantined-1, a notice, and the one before
    rewind:  the same, for parameters and optimizer alone, among those that the schedule saved before a given step

torch's DCP has no checksums: a flipped byte would load without a word. Here a checkpoint either loads as it was
written, or is set aside. `save`, `wait` and `restore` are collective: every rank of the run calls them at the same
step.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.checkpoint_files import (
    FORMAT_VERSION,
    Checkpoint,
    checkpoint_directories,
    checkpoint_path,
    leftovers,
    open_checkpoint,
    remove,
    set_aside,
)
from pipelines.training.checkpoint_writer import CheckpointWriter
from pipelines.training.ranks import from_first, gathered, rank_and_world_size
from pipelines.training.retention import Retention

if TYPE_CHECKING:
    from vamba.train.state import TrainState

Notify = Callable[..., None]
"""(event name, **values): what happened, for the run's event log."""


class FrozenWeightsError(ValueError):
    """The frozen weights are not those that the checkpoint was trained with."""


class CheckpointStore:
    """Checkpoints of one run, newest last."""

    def __init__(
        self,
        directory: Path,
        *,
        retention: Retention | None = None,
        notify: Notify = lambda event, **values: None,
        evaluations: Callable[[], Mapping[int, float]] = dict,
    ) -> None:
        """evaluations: the evaluation losses of the run so far, by step."""
        self.directory = directory
        self.retention = retention or Retention()
        self._notify, self._evaluations = notify, evaluations
        self._saved_step: int | None = None
        self._writer = CheckpointWriter(on_commit=self._committed, on_failure=self._failed)

    def committed(self) -> list[Checkpoint]:
        """Committed checkpoints whose meta.json reads, by step. Their files are not verified."""
        found = (open_checkpoint(path) for path in checkpoint_directories(self.directory))
        return [checkpoint for checkpoint in found if isinstance(checkpoint, Checkpoint)]

    def save(self, state: TrainState, labels: Mapping[str, Any]) -> float:
        """Begin to write a checkpoint of `state`; it is committed in the background. Collective.

        Nothing is done where the step has its checkpoint, or has it begun.

        Returns the seconds that training was held up: for the copy, and for an earlier checkpoint that was still being
        written (there is never more than one). labels: recorded in meta.json as they are.
        """
        if self._saved_step == state.step:
            return 0.0
        started = time.perf_counter()
        meta = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "epoch": state.reader_state.epoch,
            "num_steps": state.num_steps,
            "reader_state": state.reader_state.to_dict(),
            "is_rewind_point": state.is_rewind_point,
            "guard": state.guard.to_dict(),
            "world_size": rank_and_world_size()[1],
            "frozen_digest": state.frozen_digest(),
            "created": round(time.time(), 3),
            **labels,
        }
        self._writer.begin(state.tensors(), checkpoint_path(self.directory, state.step), meta)
        self._saved_step = state.step
        return time.perf_counter() - started

    def wait(self) -> None:
        """Until what was begun is committed. Collective.

        Raises:
            CheckpointWriteError: it could not be written, on any rank.
        """
        self._writer.wait()

    def restore(self, state: TrainState) -> Checkpoint | None:
        """Load the newest intact checkpoint into `state`; None when there is none. Collective.

        Raises:
            CheckpointFormatError: it is of a newer format: quarantining it would lose work.
            FrozenWeightsError: it belongs to other frozen weights than `state` has.
        """
        from vamba.data.plan import PlanState

        names = []
        if rank_and_world_size()[0] == 0:
            for leftover in leftovers(self.directory):
                shutil.rmtree(leftover, ignore_errors=True)
            names = [path.name for path in reversed(checkpoint_directories(self.directory))]
        self._writer.prepare()
        checkpoint = self._first_intact(names)
        if checkpoint is None:
            return None
        self._load(checkpoint, state)
        state.reader_state = PlanState.from_dict(checkpoint.meta["reader_state"])
        state.guard.load(checkpoint.meta.get("guard", {}))
        self._saved_step = state.step
        self.set_aside_discarded(state)
        return checkpoint

    def rewind(self, state: TrainState, *, before: int) -> Checkpoint | None:
        """Load parameters and optimizer of the newest intact rewind point before step `before`, and nothing else of it.

        Where the retention rule has left none, it is the oldest that there is. None if there is no rewind point at all;
        `state` is then as it was. What is being written is waited for. Collective.
        """
        self._writer.settle()
        steps: list[int] = []
        if rank_and_world_size()[0] == 0:
            # Not those about to be removed: whether they still are there depends on when a run was stopped.
            expired = {checkpoint.step for checkpoint in self.expired()}
            points = [point.step for point in self.committed() if point.is_rewind_point and point.step not in expired]
            points = [step for step in points if not state.guard.is_discarded(step)]
            steps = sorted(points, key=lambda step: (step >= before, step if step >= before else -step))
        checkpoint = self._first_intact([checkpoint_path(self.directory, step).name for step in steps])
        if checkpoint is not None:
            self._load(checkpoint, state)
        return checkpoint

    def set_aside_discarded(self, state: TrainState) -> None:
        """Set aside what was saved between the two ends of a rewind, except where it is pinned or registered."""
        if rank_and_world_size()[0] != 0:
            return
        for checkpoint in self.committed():
            if state.guard.is_discarded(checkpoint.step) and not checkpoint.is_held:
                self._set_aside(checkpoint.directory, "the run went back to a step before it")

    def _load(self, checkpoint: Checkpoint, state: TrainState) -> None:
        from torch.distributed.checkpoint.api import CheckpointException

        from pipelines.training.checkpoint_reader import load_tensors

        if checkpoint.frozen_digest not in (None, state.frozen_digest()):
            raise FrozenWeightsError(
                f"{checkpoint.directory} was trained on frozen weights {checkpoint.frozen_digest}, but the model has "
                f"{state.frozen_digest()} now: the checkpoint it started from (model.init_from) is another one. "
                "Restore that, or start a run under another name."
            )
        # Format 1 holds the frozen weights as well; they are what the model starts from, so they can be left.
        tensors = state.tensors()
        is_alone = rank_and_world_size()[1] == 1
        try:
            load_tensors(tensors, checkpoint.directory, no_dist=is_alone)
        except CheckpointException as error:  # a BaseException in torch
            raise RuntimeError(f"{checkpoint.directory} is intact but does not fit this model: {error}") from error
        state.publish()

    def _first_intact(self, names: list[str]) -> Checkpoint | None:
        """The first of these, as rank 0 lists them, whose files are whole; those before it are set aside."""
        rank, world_size = rank_and_world_size()
        for name in from_first(names):
            opened = open_checkpoint(self.directory / name)
            damage = opened.find_damage(part=rank, num_parts=world_size) if isinstance(opened, Checkpoint) else opened
            reasons = [reason for reason in gathered(damage) if reason]
            if not reasons:
                assert isinstance(opened, Checkpoint)
                return opened
            if rank == 0:
                self._set_aside(self.directory / name, "; ".join(sorted(set(reasons))))
        return None

    def _committed(self, checkpoint: Checkpoint, seconds: float) -> None:
        """On rank 0, in the background."""
        size_bytes = checkpoint.size_bytes
        self._notify("checkpoint_committed", step=checkpoint.step, seconds=round(seconds, 4), size_bytes=size_bytes)
        try:
            self.remove_expired()
        except Exception as error:  # the checkpoint is there; what fails is tidying, and other ranks wait for this one
            text = f"checkpoints that are not needed any more could not be removed: {error}"
            self._notify("notice", text=text)

    def _failed(self, step: int, reason: str) -> None:
        """On rank 0, in the background."""
        self._notify("checkpoint_failed", step=step, reason=reason)

    def expired(self) -> list[Checkpoint]:
        """Those that the retention rule lets go, oldest first."""
        found = {checkpoint.step: checkpoint for checkpoint in self.committed()}
        pinned = [step for step, checkpoint in found.items() if checkpoint.is_held]
        passing = [step for step, checkpoint in found.items() if not checkpoint.is_rewind_point]
        losses = self._evaluations()
        return [found[step] for step in self.retention.expired(found, pinned, passing=passing, losses=losses)]

    def best(self) -> list[Checkpoint]:
        """Those that are kept for their evaluation, best first."""
        found = {checkpoint.step: checkpoint for checkpoint in self.committed()}
        return [found[step] for step in self.retention.best(found, self._evaluations())]

    def remove_expired(self) -> list[Checkpoint]:
        """Remove them; returns which."""
        removed = self.expired()
        for checkpoint in removed:
            remove(checkpoint.directory)
        return removed

    def _set_aside(self, directory: Path, reason: str) -> None:
        target = set_aside(directory)
        self._notify("checkpoint_quarantined", checkpoint=directory.name, moved_to=target.name, reason=reason)
