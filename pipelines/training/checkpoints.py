"""The checkpoint store: the one truth about where a run is. Its format is described in docs/checkpoint-format.md.

    save:    step_00000040.tmp/ ── DCP shards of every rank ── hash ── meta.json (last) ── rename ──> step_00000040/
    restore: newest first ── meta.json whole? every file present, of its size and hash? ── DCP load
             anything wrong ──> step_00000040.quarantined-1, a notice, and the one before

torch's DCP has no checksums: a flipped byte would load without a word. Here a checkpoint either loads as it was
written, or is set aside. `save` and `restore` are collective: every rank of the run calls them at the same step.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.run_directory import read_json, write_json

if TYPE_CHECKING:
    from vamba.train.state import TrainState

FORMAT_VERSION = 1
META_NAME = "meta.json"
_NAME = re.compile(r"step_(\d{8})")

Notify = Callable[..., None]
"""(event name, **values): what happened, for the run's event log."""


class CheckpointFormatError(ValueError):
    """A checkpoint was written by a newer version of this software."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A committed checkpoint. meta: content of its meta.json."""

    directory: Path
    step: int
    meta: Mapping[str, Any]

    @property
    def size_bytes(self) -> int:
        return sum(int(file["size_bytes"]) for file in self.meta["files"].values())

    def find_damage(self, *, part: int = 0, num_parts: int = 1) -> str | None:
        """What is wrong with the files, or with every num_parts-th of them from `part` on; None when nothing is."""
        for name, expected in sorted(self.meta["files"].items())[part::num_parts]:
            path = self.directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["size_bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['size_bytes']}"
            if _sha256(path) != expected["sha256"]:
                return f"{name} does not have the recorded sha256"
        return None


class CheckpointStore:
    """Checkpoints of one run, newest last."""

    def __init__(self, directory: Path, *, keep_last: int = 3, notify: Notify = lambda event, **values: None) -> None:
        if keep_last < 1:
            raise ValueError(f"checkpoints.keep_last is {keep_last}, but a run needs at least its newest one.")
        self.directory = directory
        self.keep_last = keep_last
        self._notify = notify

    def list(self) -> list[Checkpoint]:
        """Committed checkpoints whose meta.json reads, by step. Their files are not verified."""
        found = (self._open(path) for path in sorted(self.directory.glob("step_*")) if _NAME.fullmatch(path.name))
        return [checkpoint for checkpoint in found if isinstance(checkpoint, Checkpoint)]

    def save(self, state: TrainState, labels: Mapping[str, Any]) -> Checkpoint | None:
        """Write and commit a checkpoint of `state`; returns it on rank 0, None elsewhere. Collective.

        labels: recorded in meta.json as they are (digests of configuration and data).
        """
        import torch.distributed.checkpoint as dcp

        rank, world_size = _rank_and_world_size()
        started = time.perf_counter()
        final = self.directory / f"step_{state.step:08d}"
        temporary = final.with_suffix(".tmp")
        planner = dcp.DefaultSavePlanner(enable_plan_caching=True)
        dcp.save(state.tensors(), checkpoint_id=str(temporary), planner=planner, no_dist=world_size == 1)
        parts = _gather_on_first(_describe_files(temporary, rank), rank, world_size)
        if parts is None:
            return None
        meta = {
            "format_version": FORMAT_VERSION,
            "step": state.step,
            "epoch": state.reader_state.epoch,
            "num_steps": state.num_steps,
            "reader_state": state.reader_state.to_dict(),
            "world_size": world_size,
            "created": round(time.time(), 3),
            **labels,
            "files": {name: file for part in parts for name, file in part.items()},
        }
        write_json(temporary / META_NAME, meta)
        _fsync_directory(temporary)
        temporary.rename(final)
        _fsync_directory(self.directory)
        checkpoint = Checkpoint(directory=final, step=state.step, meta=meta)
        seconds = round(time.perf_counter() - started, 4)
        self._notify("checkpoint_committed", step=state.step, seconds=seconds, size_bytes=checkpoint.size_bytes)
        for old in self.list()[: -self.keep_last]:
            _remove(old.directory)
        return checkpoint

    def restore(self, state: TrainState) -> Checkpoint | None:
        """Load the newest intact checkpoint into `state`; None when there is none. Collective.

        Raises CheckpointFormatError for one of a newer format: quarantining it would lose work.
        """
        import torch.distributed.checkpoint as dcp
        from torch.distributed.checkpoint.api import CheckpointException

        from vamba.data.plan import PlanState

        _, world_size = _rank_and_world_size()
        checkpoint = self._newest_intact()
        if checkpoint is None:
            return None
        try:
            dcp.load(state.tensors(), checkpoint_id=str(checkpoint.directory), no_dist=world_size == 1)
        except CheckpointException as error:  # a BaseException in torch
            raise RuntimeError(f"{checkpoint.directory} is intact but does not fit this model: {error}") from error
        state.reader_state = PlanState.from_dict(checkpoint.meta["reader_state"])
        return checkpoint

    def _newest_intact(self) -> Checkpoint | None:
        rank, world_size = _rank_and_world_size()
        if rank == 0:
            for leftover in self.directory.glob("step_*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)
        names = sorted((p.name for p in self.directory.glob("step_*") if _NAME.fullmatch(p.name)), reverse=True)
        for name in _from_first(names, world_size):
            opened = self._open(self.directory / name)
            damage = opened.find_damage(part=rank, num_parts=world_size) if isinstance(opened, Checkpoint) else opened
            reasons = [reason for reason in _gather_on_all(damage, world_size) if reason]
            if not reasons:
                assert isinstance(opened, Checkpoint)
                return opened
            if rank == 0:
                self._quarantine(self.directory / name, "; ".join(sorted(set(reasons))))
        return None

    def _open(self, directory: Path) -> Checkpoint | str:
        """The checkpoint in `directory`, or what is wrong with its meta.json."""
        try:
            meta = read_json(directory / META_NAME)
            version = int(meta["format_version"])
            if version > FORMAT_VERSION:
                raise CheckpointFormatError(
                    f"{directory} has checkpoint format {version}, but this version reads up to {FORMAT_VERSION}: "
                    "continue the run with the version that wrote it, or a newer one."
                )
            return Checkpoint(directory=directory, step=int(meta["step"]), meta={**meta, "files": dict(meta["files"])})
        except CheckpointFormatError:
            raise
        except (OSError, ValueError, KeyError, TypeError) as error:
            return f"{META_NAME} can't be read ({type(error).__name__})"

    def _quarantine(self, directory: Path, reason: str) -> None:
        taken = len(list(self.directory.glob(f"{directory.name}.quarantined-*")))
        target = directory.with_name(f"{directory.name}.quarantined-{taken + 1}")
        directory.rename(target)
        self._notify("checkpoint_quarantined", checkpoint=directory.name, moved_to=target.name, reason=reason)


def _describe_files(directory: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Size and hash of the files that this rank wrote, after they reached the disk."""
    own = [*directory.glob(f"__{rank}_*"), *(directory.glob(".metadata") if rank == 0 else ())]
    described = {}
    for path in own:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
        described[path.name] = {"size_bytes": path.stat().st_size, "sha256": _sha256(path)}
    return described


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove(directory: Path) -> None:
    """Delete a checkpoint. Renamed first: what a kill leaves behind is a leftover, not a checkpoint with holes."""
    leftover = directory.with_suffix(".tmp")
    directory.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _rank_and_world_size() -> tuple[int, int]:
    import torch.distributed as dist

    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def _gather_on_first(value: Any, rank: int, world_size: int) -> list[Any] | None:
    import torch.distributed as dist

    if world_size == 1:
        return [value]
    gathered = [None] * world_size if rank == 0 else None
    dist.gather_object(value, gathered)
    return gathered


def _gather_on_all(value: Any, world_size: int) -> list[Any]:
    import torch.distributed as dist

    if world_size == 1:
        return [value]
    gathered = [None] * world_size
    dist.all_gather_object(gathered, value)
    return gathered


def _from_first(value: Any, world_size: int) -> Any:
    import torch.distributed as dist

    if world_size == 1:
        return value
    holder = [value]
    dist.broadcast_object_list(holder)
    return holder[0]
