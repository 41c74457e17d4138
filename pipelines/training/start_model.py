"""The model that a run starts from: found once, pinned in run.json, and the same at every later start.

    model.init_from ──find_start──> StartModel ──pin_start──> run.json: version, directory, digest of every file
                                                    └── later starts: the pinned one, refused if its content changed

An alias may move and a run may be prolonged while another run that began from it is still training. Its frozen weights,
and what it falls back to before the first checkpoint, must stay what they were.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.registry.lineage import DECISIVE_FILES
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory

_RECORD = "start_model"  # key in run.json


class StartModelChangedError(ValueError):
    """The model that the run started from is gone, or holds something else now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedFile:
    """mtime_ns: as long as size and time are these, the content is taken for the same without reading it again."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartModel:
    """ref: as the user wrote it. source: what it meant, for good: a version's URI, or the directory.

    files: by name; empty until it is pinned.
    """

    ref: str
    source: str
    directory: Path
    files: Mapping[str, PinnedFile]

    @property
    def digest(self) -> str:
        """Of all that decides: equal digests, equal weights and tokenizer."""
        lines = "".join(f"{name} {file.sha256}\n" for name, file in sorted(self.files.items()))
        return "sha256:" + hashlib.sha256(lines.encode()).hexdigest()


def find_start(config: TrainingConfig, directory: RunDirectory) -> StartModel | None:
    """The model that the run started from, or would start from now; None for a fresh one. Writes nothing.

    Raises ModelNotFoundError for a reference that names no model.
    """
    ref = config.model.init_from
    if ref is None:
        return None
    pinned = directory.read_run().get(_RECORD)
    if pinned and pinned["ref"] == ref:
        return _from_record(pinned)
    from pipelines.registry.models import resolve_model

    found = resolve_model(ref)
    is_version = ref.startswith("models:")
    source = f"models:/{found.lineage['name']}/{found.lineage['version']}" if is_version else str(found.directory)
    return StartModel(ref=ref, source=source, directory=found.directory.resolve(), files={})


def pin_start(start: StartModel, directory: RunDirectory) -> StartModel:
    """Record `start` at the run's first start; at later ones, check that its content is what was recorded.

    Raises StartModelChangedError.
    """
    here = replace(start, directory=_present(start))
    checked = replace(here, files=_read_files(here.directory, start.files))
    if start.files:
        changed = sorted(
            name
            for name in {*start.files, *checked.files}
            if _sha256(start.files.get(name)) != _sha256(checked.files.get(name))
        )
        if changed:
            raise StartModelChangedError(
                f"Run {directory.name!r} started from {start.ref} ({start.source}), and {here.directory} is not what "
                f"it was: {', '.join(changed)} changed. Restore the files (digest {start.digest}), or start a run "
                "under another name."
            )
    directory.update_run(**{_RECORD: _to_record(checked)})
    return checked


def _present(start: StartModel) -> Path:
    """The directory; a version's is fetched again where it is gone."""
    if (start.directory / "config.json").is_file():
        return start.directory
    if start.source.startswith("models:"):
        from pipelines.registry.models import resolve_model

        return resolve_model(start.source).directory.resolve()
    raise StartModelChangedError(
        f"The run started from {start.ref}, which was {start.directory}, and there is no model any more. Restore the "
        "directory, or start a run under another name."
    )


def _read_files(directory: Path, known: Mapping[str, PinnedFile]) -> dict[str, PinnedFile]:
    paths = sorted({path for pattern in DECISIVE_FILES for path in directory.glob(pattern) if path.is_file()})

    def read(path: Path) -> PinnedFile:
        status, before = path.stat(), known.get(path.name)
        if before and (before.size_bytes, before.mtime_ns) == (status.st_size, status.st_mtime_ns):
            return before
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return PinnedFile(size_bytes=status.st_size, mtime_ns=status.st_mtime_ns, sha256=sha256)

    with ThreadPoolExecutor(4) as pool:
        return dict(zip((path.name for path in paths), pool.map(read, paths), strict=True))


def _sha256(file: PinnedFile | None) -> str | None:
    return None if file is None else file.sha256


def _to_record(start: StartModel) -> dict[str, Any]:
    files = {name: [file.size_bytes, file.mtime_ns, file.sha256] for name, file in start.files.items()}
    return {
        "ref": start.ref,
        "source": start.source,
        "directory": str(start.directory),
        "digest": start.digest,
        "files": files,
    }


def _from_record(record: Mapping[str, Any]) -> StartModel:
    files = {
        name: PinnedFile(size_bytes=size, mtime_ns=mtime_ns, sha256=sha256)
        for name, (size, mtime_ns, sha256) in record["files"].items()
    }
    return StartModel(ref=record["ref"], source=record["source"], directory=Path(record["directory"]), files=files)
