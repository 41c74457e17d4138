"""One checkpoint on disk: its names, its meta.json, its hashes, its pins. docs/checkpoint-format.md describes them."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.durable import sync
from pipelines.inside import is_inside
from pipelines.training.registered import is_registered, registered_versions
from pipelines.training.run_directory import read_json, write_json

FORMAT_VERSION = 4
META_NAME = "meta.json"
_OWN_DIGEST = "meta_sha256"  # of everything else in meta.json, since format 4
_NAME = re.compile(r"step_(\d{8})")
_PIN_SUFFIX = ".pin.json"


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

    @property
    def frozen_digest(self) -> str | None:
        """Of the frozen parameters, which it does not hold; None if it holds every parameter (format 1)."""
        return self.meta.get("frozen_digest")

    @property
    def is_rewind_point(self) -> bool:
        """Whether a guard may go back to it: it was saved by the schedule, not for a stop (unknown before format 3)."""
        return bool(self.meta.get("is_rewind_point", True))

    @property
    def pin(self) -> str | None:
        """Why it must be kept, if somebody said so."""
        path = _pin_path(self.directory)
        if not path.is_file():
            return None
        try:
            return str(read_json(path)["reason"])
        except (OSError, ValueError, KeyError):
            return f"for a reason that {path.name} does not tell any more: it is damaged"

    @property
    def versions(self) -> tuple[str, ...]:
        """The registered versions that were made from it, as NAME/VERSION."""
        try:
            return tuple(sorted(registered_versions(self.directory)))
        except (OSError, ValueError, KeyError):
            return ("a version that a damaged file no longer names",)

    @property
    def is_held(self) -> bool:
        """Whether it must be kept whatever the retention rule says: pinned, or a registered version's."""
        return self.pin is not None or is_registered(self.directory)

    def find_damage(self, *, part: int = 0, num_parts: int = 1) -> str | None:
        """What is wrong with the files, or with every num_parts-th of them from `part` on; None when nothing is."""
        for name, expected in sorted(self.meta["files"].items())[part::num_parts]:
            if not is_inside(name):
                return f"it names {name!r}, outside of its folder"
            path = self.directory / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != expected["size_bytes"]:
                return f"{name} has {path.stat().st_size} bytes instead of {expected['size_bytes']}"
            try:
                if _sha256(path) != expected["sha256"]:
                    return f"{name} does not have the recorded sha256"
            except OSError as error:  # a disk that no longer gives it back
                return f"{name} can't be read ({error.strerror})"
        return None


def checkpoint_path(parent: Path, step: int) -> Path:
    """Where the checkpoint of a step belongs."""
    return parent / f"step_{step:08d}"


def checkpoint_directories(parent: Path) -> list[Path]:
    """Everything below `parent` that is named like a committed checkpoint, by step."""
    return sorted(path for path in parent.glob("step_*") if _NAME.fullmatch(path.name) and path.is_dir())


def step_of(directory: Path) -> int:
    """The step in the name of a committed checkpoint."""
    return int(directory.name.removeprefix("step_"))


def leftovers(parent: Path) -> list[Path]:
    """What killed writes and killed removals left below `parent`."""
    return sorted(parent.glob("step_*.tmp"))


def quarantined(parent: Path) -> list[Path]:
    """Checkpoints that were set aside, because they are damaged or a rewind left them behind."""
    return sorted(parent.glob("step_*.quarantined-*"))


def open_checkpoint(directory: Path) -> Checkpoint | str:
    """The checkpoint in `directory`, or what is wrong with its meta.json.

    Raises:
        CheckpointFormatError: it is of a newer format; to set it aside would lose work.
    """
    try:
        meta = read_json(directory / META_NAME)
        version = int(meta["format_version"])
        noted = meta.pop(_OWN_DIGEST, None)
        # Before anything in it is believed, its version included.
        if (noted is not None or version == FORMAT_VERSION) and noted != _digest(meta):
            return f"{META_NAME} does not have the sha256 that stands in it"
        if version > FORMAT_VERSION:
            raise CheckpointFormatError(
                f"{directory} has checkpoint format {version}, but this version reads up to {FORMAT_VERSION}: "
                "continue the run with the version that wrote it, or a newer one."
            )
        named = _NAME.match(directory.name)
        if named is not None and int(named[1]) != int(meta["step"]):
            return f"{META_NAME} is of step {meta['step']}"
        return Checkpoint(directory=directory, step=int(meta["step"]), meta={**meta, "files": dict(meta["files"])})
    except CheckpointFormatError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{META_NAME} can't be read ({type(error).__name__})"


def commit(temporary: Path, final: Path, meta: Mapping[str, Any]) -> Checkpoint:
    """Turn a directory of finished files into a checkpoint: meta.json last, then one rename."""
    write_json(temporary / META_NAME, {**meta, _OWN_DIGEST: _digest(meta)})
    sync(temporary)
    temporary.rename(final)
    sync(final.parent)
    return Checkpoint(directory=final, step=int(meta["step"]), meta=meta)


def set_aside(directory: Path) -> Path:
    """Rename a checkpoint so that it is never read again; returns where it is now."""
    number = 1
    while (target := directory.with_name(f"{directory.name}.quarantined-{number}")).exists():
        number += 1
    directory.rename(target)
    return target


def describe_files(directory: Path, rank: int) -> dict[str, dict[str, Any]]:
    """Size and hash of the files that this rank wrote, after they reached the disk."""
    own = [*directory.glob(f"__{rank}_*"), *(directory.glob(".metadata") if rank == 0 else ())]
    described = {}
    for path in own:
        sync(path)
        described[path.name] = {"size_bytes": path.stat().st_size, "sha256": _sha256(path)}
    return described


def set_pin(directory: Path, reason: str) -> None:
    """Keep a checkpoint whatever the retention rule says."""
    write_json(_pin_path(directory), {"reason": reason})


def remove_pin(directory: Path) -> None:
    """Leave a checkpoint to the retention rule again."""
    _pin_path(directory).unlink(missing_ok=True)


def remove(directory: Path) -> None:
    """Delete a checkpoint. Renamed first: what a kill leaves behind is a leftover, not a checkpoint with holes."""
    leftover = directory.with_suffix(".tmp")
    directory.rename(leftover)
    shutil.rmtree(leftover, ignore_errors=True)


def size_on_disk(directory: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def _pin_path(directory: Path) -> Path:
    # Beside the directory, not in it: a committed checkpoint is never written to.
    return directory.with_name(directory.name + _PIN_SUFFIX)


def _digest(meta: Mapping[str, Any]) -> str:
    """Of the values as they read back from JSON, in one order."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
