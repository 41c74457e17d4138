"""A copy of a run in an object store, made behind the back of training: what a lost disk is replaced from.

    run directory (the truth) ── a thread of the driver ──> {mirror}/{name}/  checkpoints/step_…/ (meta.json last)
                                                                              run.json, events, metrics, model/
    another machine, same command ── bring_back ──> files of the newest checkpoint, hashed ── meta.json, rename

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
from collections.abc import Callable, Iterator
from pathlib import Path

from pipelines.storage import LocalStorage, Storage, open_storage
from pipelines.training.checkpoint_files import (
    META_NAME,
    Checkpoint,
    checkpoint_directories,
    checkpoint_path,
    commit,
    open_checkpoint,
)
from pipelines.training.run_directory import RunDirectory

PASS_EVERY_S = 5.0
RETRY_S = 30.0
_OWNER = "owner.json"
_CHECKPOINTS = "checkpoints"
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
        self._away = False
        self._thread = threading.Thread(target=self._follow, name="mirror", daemon=True)
        claim(self._storage, directory)
        self._thread.start()

    def close(self, *, timeout_s: float = 600.0) -> None:
        """Send what is left; after `timeout_s` say what is missing."""
        self._closing.set()
        self._thread.join(timeout=timeout_s)
        if self._thread.is_alive() or not self._attempt():
            missing = sorted(self._local() - set(mirrored_steps(self._storage))) if not self._away else []
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
        """Whether everything that there is now has been sent. What a store does must not reach training."""
        try:
            send(self._directory, self._storage, self._sent)
        except Exception as error:
            if not self._away:
                self._notice(f"The mirror can't be written ({' '.join(str(error).split())[:200]}); training goes on.")
            self._away = True
            return False
        if self._away:
            self._notice("The mirror is written again.")
        self._away = False
        return True

    def _local(self) -> set[int]:
        return {checkpoint.step for checkpoint in _committed(self._directory)}


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
    if storage.create(_OWNER, json.dumps({"mirror_id": run_id}).encode()):
        return
    owner = json.loads(storage.read_bytes(_OWNER)).get("mirror_id")
    if owner != run_id:
        raise MirrorError(
            f"{storage.uri} is the mirror of another run of this name. Choose another `mirror`, or another name; or, "
            f"to continue that run here, move {directory.root} away."
        )


def send(directory: RunDirectory, storage: Storage, sent: dict[str, int]) -> None:
    """One pass: checkpoints that are not there, oldest first; then records; then the model; then what may go."""
    there = set(mirrored_steps(storage))
    here = _committed(directory)
    for checkpoint in here:
        if checkpoint.step not in there:
            _send_checkpoint(checkpoint, storage)
    paths = [directory.root / name for name in _RECORDS]
    paths += sorted(directory.metrics.glob("*.jsonl"))
    if directory.model.is_dir():
        paths += sorted(path for path in directory.model.iterdir() if path.is_file())
    for path in paths:
        name = path.relative_to(directory.root).as_posix()
        size_bytes = path.stat().st_size if path.is_file() else -1
        # run.json is rewritten in place and small; the others only grow.
        if size_bytes >= 0 and (sent.get(name) != size_bytes or name == "run.json"):
            _put(storage, name, path)
            sent[name] = size_bytes
    kept = {checkpoint.step for checkpoint in here}
    for step in sorted(there - kept):
        if step < max(kept, default=0):  # a newer one may be what is left of a lost disk
            _remove_checkpoint(storage, step)


def mirrored_steps(storage: Storage) -> list[int]:
    """The checkpoints that a mirror holds, oldest first."""
    found = {file.path for file in storage.list(_CHECKPOINTS)}
    metas = (path.split("/") for path in found if path.endswith(f"/{META_NAME}"))
    return sorted(int(parts[1].removeprefix("step_")) for parts in metas if len(parts) == 3)


def bring_back(uri: str, directory: RunDirectory, notice: Callable[[str], None]) -> int | None:
    """Fetch the newest whole checkpoint of the mirror, and the run's records, where `directory` has none as new.

    Returns its step; None when the mirror holds no run, or nothing newer than what is here. A kill in between leaves
    nothing that looks like a checkpoint.

    Raises:
        MirrorError: `directory` is a run already, and another one than the mirror's; or none of the mirror's
            checkpoints is whole.
    """
    storage = open_storage(mirror_of(uri, directory.name))
    if not storage.exists(_OWNER):
        return None
    owner = json.loads(storage.read_bytes(_OWNER)).get("mirror_id")
    known = directory.read_run().get("mirror_id") if directory.run_path.exists() else None
    if directory.run_path.exists() and known != owner:
        if known is None:
            return None  # not mirrored until now; `claim` decides
        raise MirrorError(f"{storage.uri} is the mirror of another run than {directory.root}: move one of them away.")
    newest_here = max((checkpoint.step for checkpoint in _committed(directory)), default=-1)
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


def _committed(directory: RunDirectory) -> list[Checkpoint]:
    opened = (open_checkpoint(path) for path in checkpoint_directories(directory.checkpoints))
    return [checkpoint for checkpoint in opened if isinstance(checkpoint, Checkpoint)]


def _prefix(step: int) -> str:
    return f"{_CHECKPOINTS}/{checkpoint_path(Path(), step).name}"


def _send_checkpoint(checkpoint: Checkpoint, storage: Storage) -> None:
    """Every file that is not there in its size, then meta.json. One that retention removes meanwhile is left out, and
    so is a damaged one: the next start sets it aside.

    Raises:
        MirrorError: another process has put a checkpoint of this step there.
    """
    if checkpoint.find_damage() is not None:
        return
    prefix = _prefix(checkpoint.step)
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
    storage.delete(f"{_prefix(step)}/{META_NAME}")
    storage.delete_tree(_prefix(step))


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


def _fetch_checkpoint(storage: Storage, step: int, directory: RunDirectory) -> str | None:
    """Returns what is wrong with it, None if it is here now."""
    prefix = _prefix(step)
    final = checkpoint_path(directory.checkpoints, step)
    temporary = final.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        meta = json.loads(storage.read_bytes(f"{prefix}/{META_NAME}"))
        for name, described in meta["files"].items():
            if Path(name).name != name:
                return f"{name!r} is no name of a file"
            _fetch(storage, f"{prefix}/{name}", temporary / name, int(described["size_bytes"]))
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
            _write(directory.root / name, storage.read_bytes(name))


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
