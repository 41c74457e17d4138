"""A copy of a run in an object store, made behind the back of training: what a lost disk is replaced from.

    run directory (the truth) ── a thread of the driver ──> {mirror}/{name}/  checkpoints/step_…/ (meta.json last)
                                                                              run.json, events, metrics, model/
    another machine, same command <── mirror_back.py ──┘

Nothing in training waits for it. A request that fails is made again, the next pass makes up for what a pass left out,
and what is still missing at the end is said. A checkpoint exists in the mirror when its meta.json does, which is put
last and only where none is; one that is removed loses it first. `owner.json` says which run a mirror belongs to.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from pipelines.storage import LocalStorage, Storage, open_storage
from pipelines.training.checkpoint_files import (
    META_NAME,
    Checkpoint,
    checkpoint_directories,
    checkpoint_path,
    open_checkpoint,
)
from pipelines.training.outages import Outages
from pipelines.training.run_directory import RunDirectory

PASS_EVERY_S = 5.0
RETRY_S = 30.0
OWNER_NAME = "owner.json"
CHECKPOINTS_PREFIX = "checkpoints"
_RECORDS = ("config.json", "run.json", "events.jsonl")


class MirrorError(ValueError):
    """The mirror belongs to another run, or what lies there can't be used."""


class Mirror:
    """Follows one run directory into a storage on a thread of its own."""

    def __init__(
        self,
        uri: str,
        directory: RunDirectory,
        notice: Callable[[str], None],
        *,
        pass_every_s: float = PASS_EVERY_S,
        retry_s: float = RETRY_S,
    ) -> None:
        """uri: that holds the mirrors of runs, each under its name.

        Raises:
            MirrorError: another run of this name has its mirror there.
        """
        self._directory, self._notice = directory, notice
        self._pass_every_s, self._retry_s = pass_every_s, retry_s
        self._storage = open_storage(mirror_of(uri, directory.name))
        self._sent: dict[str, int] = {}  # bytes of each file beside the checkpoints, as it was sent
        self._closing = threading.Event()
        self._outages = Outages(notice, away="The mirror can't be written", back="The mirror is written again.")
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        claim(self._storage, directory)
        self._thread.start()

    def close(self, *, timeout_s: float = 600.0) -> None:
        """Send what is left; after `timeout_s` say what is missing."""
        self._closing.set()
        self._thread.join(timeout=timeout_s)
        if self._thread.is_alive() or not self._attempt():
            missing = sorted(self._local() - set(mirrored_steps(self._storage))) if not self._outages.is_away else []
            what = f"steps {', '.join(map(str, missing))}" if missing else "the newest state"
            self._notice(
                f"The mirror {self._storage.uri} lacks {what}; it is in {self._directory.root}, and is sent when the "
                "same command runs again."
            )

    def _follow(self) -> None:
        while not self._closing.is_set():
            done = self._attempt()
            self._closing.wait(self._pass_every_s if done else self._retry_s)

    def _attempt(self) -> bool:
        """Whether everything that there is now has been sent."""
        return self._outages.attempt(lambda: send(self._directory, self._storage, self._sent))

    def _local(self) -> set[int]:
        return {checkpoint.step for checkpoint in committed(self._directory)}


@contextlib.contextmanager
def mirrored(uri: str | None, directory: RunDirectory, notice: Callable[[str], None]) -> Iterator[None]:
    """The run is mirrored inside the `with` block; with None it is not."""
    mirror = None if uri is None else Mirror(uri, directory, notice)
    try:
        yield
    finally:
        if mirror is not None:
            mirror.close()


def mirror_of(uri: str, name: str) -> str:
    """Where run `name` has its mirror."""
    return f"{uri.rstrip('/')}/{name}"


def claim(storage: Storage, directory: RunDirectory) -> None:
    """Make the mirror this run's, or check that it is."""
    run_id = directory.read_run().get("mirror_id")
    if run_id is None:
        run_id = secrets.token_hex(8)
        directory.update_run(mirror_id=run_id)
    if storage.create(OWNER_NAME, json.dumps({"mirror_id": run_id}).encode()):
        return
    owner = json.loads(storage.read_bytes(OWNER_NAME)).get("mirror_id")
    if owner != run_id:
        raise MirrorError(
            f"{storage.uri} is the mirror of another run of this name. Choose another `mirror`, or another name; or, "
            f"to continue that run here, move {directory.root} away."
        )


def send(directory: RunDirectory, storage: Storage, sent: dict[str, int]) -> None:
    """One pass: records; then checkpoints that are not there, oldest first; then the model; then what may go.

    A checkpoint that comes back is of steps that have their records, because those are sent before it.
    """
    there = set(mirrored_steps(storage))
    here = committed(directory)
    _send_changed(
        directory,
        storage,
        sent,
        [*(directory.root / name for name in _RECORDS), *sorted(directory.metrics.glob("*.jsonl"))],
    )
    for checkpoint in here:
        if checkpoint.step not in there:
            _send_checkpoint(checkpoint, storage)
    if directory.model.is_dir():
        _send_changed(directory, storage, sent, sorted(path for path in directory.model.iterdir() if path.is_file()))
    kept = {checkpoint.step for checkpoint in here}
    for step in sorted(there - kept):
        if step < max(kept, default=0):  # a newer one may be what is left of a lost disk
            _remove_checkpoint(storage, step)


def _send_changed(directory: RunDirectory, storage: Storage, sent: dict[str, int], paths: Sequence[Path]) -> None:
    """Those of `paths` that are not in the mirror as they are; `sent` is what it has of each, in bytes."""
    for path in paths:
        name = path.relative_to(directory.root).as_posix()
        size_bytes = path.stat().st_size if path.is_file() else -1
        # run.json is rewritten in place and small; the others only grow.
        if size_bytes >= 0 and (sent.get(name) != size_bytes or name == "run.json"):
            _put(storage, name, path)
            sent[name] = size_bytes


def mirrored_steps(storage: Storage) -> list[int]:
    """The checkpoints that a mirror holds, oldest first."""
    found = {file.path for file in storage.list(CHECKPOINTS_PREFIX)}
    metas = (path.split("/") for path in found if path.endswith(f"/{META_NAME}"))
    return sorted(int(parts[1].removeprefix("step_")) for parts in metas if len(parts) == 3)


def committed(directory: RunDirectory) -> list[Checkpoint]:
    """The checkpoints of a run directory, by what their meta.json says."""
    opened = (open_checkpoint(path) for path in checkpoint_directories(directory.checkpoints))
    return [checkpoint for checkpoint in opened if isinstance(checkpoint, Checkpoint)]


def checkpoint_prefix(step: int) -> str:
    """Where a mirror has the checkpoint of a step."""
    return f"{CHECKPOINTS_PREFIX}/{checkpoint_path(Path(), step).name}"


def _send_checkpoint(checkpoint: Checkpoint, storage: Storage) -> None:
    """Every file that is not there in its size, then meta.json. One that retention removes meanwhile is left out, and
    so is a damaged one: the next start sets it aside.

    Raises:
        MirrorError: another process has put a checkpoint of this step there.
    """
    if checkpoint.find_damage() is not None:
        return
    prefix = checkpoint_prefix(checkpoint.step)
    there = {file.path: file.size_bytes for file in storage.list(prefix)}
    try:
        for name, described in checkpoint.meta["files"].items():
            path = f"{prefix}/{name}"
            if there.get(path) != described["size_bytes"]:
                _put(storage, path, checkpoint.directory / name)
        meta = (checkpoint.directory / META_NAME).read_bytes()
    except FileNotFoundError:
        return
    if not storage.create(f"{prefix}/{META_NAME}", meta) and storage.read_bytes(f"{prefix}/{META_NAME}") != meta:
        raise MirrorError(
            f"{storage.uri}/{prefix} was written by another process: this run trains on two machines. Stop one of them."
        )


def _remove_checkpoint(storage: Storage, step: int) -> None:
    storage.delete(f"{checkpoint_prefix(step)}/{META_NAME}")
    storage.delete_tree(checkpoint_prefix(step))


def _put(storage: Storage, name: str, path: Path) -> None:
    """Copy a file. `put_file` takes its file away, so it gets a second name, or a copy, of this one."""
    scratch = storage.scratch_dir("mirror.tmp") / secrets.token_hex(6)
    # A file that grows while it is read would be torn; and a second name on the same disk is no copy.
    if path.suffix == ".jsonl" or isinstance(storage, LocalStorage):
        shutil.copyfile(path, scratch)
    else:
        try:
            os.link(path, scratch)
        except OSError:  # another file system
            shutil.copyfile(path, scratch)
    try:
        storage.put_file(name, scratch)
    finally:
        scratch.unlink(missing_ok=True)
