"""Bringing a run back from its mirror, where the run directory is gone or lacks the newest checkpoint.

mirror ── files of the newest checkpoint, hashed ── meta.json, rename ──> run directory ── records, run.json last
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from pipelines.inside import inside
from pipelines.storage import Storage, open_storage
from pipelines.training.checkpoint_files import META_NAME, Checkpoint, checkpoint_path, commit
from pipelines.training.mirror import (
    OWNER_NAME,
    MirrorError,
    checkpoint_prefix,
    committed,
    mirror_of,
    mirrored_steps,
)
from pipelines.training.run_directory import RunDirectory


def bring_back(uri: str, directory: RunDirectory, notice: Callable[[str], None]) -> int | None:
    """Fetch the newest whole checkpoint of the mirror, and the run's records, where `directory` has none as new.

    Returns its step; None when the mirror holds no run, or nothing newer than what is here. A kill in between leaves
    nothing that looks like a checkpoint. A run that was lost before its first checkpoint was sent gets its records.

    Raises:
        MirrorError: `directory` is a run already, and another one than the mirror's; or none of the mirror's
            checkpoints is whole.
    """
    storage = open_storage(mirror_of(uri, directory.name))
    if not storage.exists(OWNER_NAME):
        return None
    owner = json.loads(storage.read_bytes(OWNER_NAME)).get("mirror_id")
    known = directory.read_run().get("mirror_id") if directory.run_path.exists() else None
    if directory.run_path.exists() and known != owner:
        if known is None:
            return None  # not mirrored until now; `claim` decides
        raise MirrorError(f"{storage.uri} is the mirror of another run than {directory.root}: move one of them away.")
    if known is None and not mirrored_steps(storage):
        _begin_again(storage, directory, owner)
        notice(f"The mirror {storage.uri} has no checkpoint yet: the run begins again.")
        return None
    newest_here = max((checkpoint.step for checkpoint in committed(directory)), default=-1)
    steps = [step for step in mirrored_steps(storage) if step > newest_here]
    damaged: dict[int, str] = {}
    for step in reversed(steps):
        problem = _fetch_checkpoint(storage, step, directory)
        if problem is None:
            if not directory.run_path.exists():
                _fetch_records(storage, directory)
            notice(f"Step {step} was brought back from the mirror {storage.uri}.")
            return step
        notice(f"Step {step} of the mirror {storage.uri} can't be used: {problem}.")
        damaged[step] = problem
    if damaged and newest_here < 0:
        reasons = "; ".join(f"step {step}: {reason}" for step, reason in damaged.items())
        raise MirrorError(f"No checkpoint of the mirror {storage.uri} is whole ({reasons}).")
    return None


def _begin_again(storage: Storage, directory: RunDirectory, owner: str) -> None:
    """Makes `directory` the run that was lost before its first checkpoint was sent."""
    directory.root.mkdir(parents=True, exist_ok=True)
    _fetch_records(storage, directory)
    directory.update_run(mirror_id=owner)


def _fetch_checkpoint(storage: Storage, step: int, directory: RunDirectory) -> str | None:
    """Returns what is wrong with it, None if it is here now."""
    prefix = checkpoint_prefix(step)
    final = checkpoint_path(directory.checkpoints, step)
    temporary = final.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        meta = json.loads(storage.read_bytes(f"{prefix}/{META_NAME}"))
        for name, described in meta["files"].items():
            _fetch(storage, f"{prefix}/{name}", inside(temporary, name), int(described["size_bytes"]))
        found = Checkpoint(directory=temporary, step=step, meta=meta)
        damage = found.find_damage()
        if damage is not None:
            return damage
        commit(temporary, final, meta)
    except (FileNotFoundError, EOFError, KeyError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return None


def _fetch_records(storage: Storage, directory: RunDirectory) -> None:
    """run.json last: what it is missing from is no run."""
    metrics = [file.path for file in storage.list("metrics")]
    for name in (*metrics, "events.jsonl", "config.json", "run.json"):
        with contextlib.suppress(FileNotFoundError):
            _write(inside(directory.root, name), storage.read_bytes(name))


def _fetch(storage: Storage, name: str, target: Path, size_bytes: int) -> None:
    """In pieces of 64 MiB, so that a file of any size needs little memory."""
    piece = 64 << 20
    with target.open("wb") as file:
        for offset in range(0, size_bytes, piece):
            file.write(storage.read_range(name, offset, min(piece, size_bytes - offset)))
        file.flush()
        os.fsync(file.fileno())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)
