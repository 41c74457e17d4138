"""Writes checkpoints behind the back of training: a copy now, the disk in a thread.

    begin ── copy of this rank's tensors ──> thread: DCP shards ── fsync, hash ── gather ── rank 0: meta.json, rename

The threads of the ranks talk over a process group of their own, so that they never meet training's collectives. They
agree on the outcome: where one rank fails to write, no rank has a checkpoint, and all of them know why.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.checkpoint_files import Checkpoint, commit, describe_files
from pipelines.training.ranks import expect_single_process, from_first, gathered, rank_and_world_size

if TYPE_CHECKING:
    from torch import Tensor

MAX_FAILURES = 3  # in a row; a run that can't save is worth less every hour


class CheckpointWriteError(RuntimeError):
    """A checkpoint could not be written. Earlier ones are as they were."""


class CheckpointWriter:
    """One checkpoint at a time. `begin` and `wait` are collective."""

    def __init__(
        self, *, on_commit: Callable[[Checkpoint, float], None], on_failure: Callable[[int, str], None]
    ) -> None:
        """on_commit(checkpoint, seconds since `begin`), on_failure(step, reason): on rank 0, in the thread."""
        self._on_commit, self._on_failure = on_commit, on_failure
        self._thread: threading.Thread | None = None
        self._group: Any = None
        self._rank = 0
        self._stager: Any = None
        self._planner: Any = None
        self._failure: str | None = None  # of the newest one, the same on all ranks
        self._num_failures = 0

    def begin(self, tensors: Mapping[str, Tensor], final: Path, meta: Mapping[str, Any]) -> None:
        """Copy `tensors` and start to write them to `final`; first waits for the one before.

        Raises:
            CheckpointWriteError: the last `MAX_FAILURES` could not be written.
        """
        self.settle()
        if self._num_failures >= MAX_FAILURES:
            raise CheckpointWriteError(f"{MAX_FAILURES} checkpoints in a row could not be written: {self._failure}")
        self.prepare()
        # Until it is known: a thread that ends without a word has written nothing.
        self._failure = f"the checkpoint of step {meta['step']} in {final.parent} was not finished"
        copied = self._stager.stage(dict(tensors))
        arguments = (copied, final, meta, time.perf_counter())
        self._thread = threading.Thread(target=self._write, args=arguments, name="checkpoint", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until the checkpoint that was begun is committed.

        Raises:
            CheckpointWriteError: it is not.
        """
        self.settle()
        if self._failure is not None:
            raise CheckpointWriteError(self._failure)

    def settle(self) -> None:
        """Until nothing is being written, whether it was committed or failed."""
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def prepare(self) -> None:
        """Make what writing needs, while the ranks are together. Collective the first time.

        From then on nothing asks how many ranks there are: when Ray ends the group under a running thread, each rank
        would take itself for the only one, and its share for a whole checkpoint.
        """
        if self._stager is not None:
            return
        import torch
        import torch.distributed as dist
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.staging import DefaultStager, StagingOptions

        self._rank, world_size = rank_and_world_size()
        if world_size > 1:
            self._group = dist.new_group(backend="gloo")
        else:
            expect_single_process()
        is_cuda = torch.cuda.is_available()
        self._stager = DefaultStager(
            StagingOptions(
                use_pinned_memory=is_cuda,
                use_shared_memory=False,
                use_async_staging=False,
                use_non_blocking_copy=is_cuda,
            )
        )
        self._planner = dcp.DefaultSavePlanner(enable_plan_caching=True)

    def _write(self, tensors: dict[str, Any], final: Path, meta: Mapping[str, Any], started: float) -> None:
        rank = self._rank
        temporary = final.with_suffix(".tmp")
        try:
            written: dict[str, Any] | str = self._write_files(tensors, temporary, rank)
        except BaseException as error:  # torch's CheckpointException is no Exception
            written = _reason(error)
        parts = gathered(written, self._group)
        failure = next((part for part in parts if isinstance(part, str)), None)
        if rank == 0 and failure is None:
            try:
                files = {name: file for part in parts for name, file in part.items()}
                checkpoint = commit(temporary, final, {**meta, "files": files})
            except OSError as error:
                failure = _reason(error)
            else:
                self._on_commit(checkpoint, time.perf_counter() - started)
        failure = from_first(failure, self._group)
        if failure is not None and rank == 0:
            shutil.rmtree(temporary, ignore_errors=True)
            self._on_failure(int(meta["step"]), failure)
        self._failure = failure and f"the checkpoint of step {meta['step']} in {final.parent}: {failure}"
        self._num_failures = self._num_failures + 1 if failure else 0

    def _write_files(self, tensors: dict[str, Any], directory: Path, rank: int) -> dict[str, Any]:
        import torch.distributed.checkpoint as dcp

        dcp.save(
            tensors,
            checkpoint_id=str(directory),
            planner=self._planner,
            process_group=self._group,
            no_dist=self._group is None,
        )
        return describe_files(directory, rank)


def _reason(error: BaseException) -> str:
    """The first cause on any rank, in one line: `OSError: [Errno 28] No space left on device`."""
    failures = getattr(error, "failures", None)  # of a CheckpointException: by rank
    if failures:
        wrapped = next(iter(failures.values()))
        error = wrapped[0] if isinstance(wrapped, tuple) else wrapped
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
