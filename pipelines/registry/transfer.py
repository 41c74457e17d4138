"""Model directories to and from a storage, file by file, in pieces: a model of any size needs little memory.

What is fetched appears under its name when it is complete. What is sent has its config.json last: without it there is
no model.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipelines.inside import inside
from pipelines.registry.model_files import ModelFiles, is_part_of_model, model_file_paths
from pipelines.storage import Storage
from vamba.model.draft import replacing

_PIECE_BYTES = 64 << 20
_GLANCE_BYTES = 64 << 10
_LAST = "config.json"
_INCOMING = ".incoming"


def hash_stored_model(storage: Storage) -> ModelFiles:
    """Read and hash every file of a model where it is stored."""
    hashes, size_bytes = {}, 0
    for entry in storage.list():
        if is_part_of_model(entry.path):
            digest = hashlib.sha256()
            for piece in _pieces(storage, entry.path, entry.size_bytes):
                digest.update(piece)
            hashes[entry.path] = digest.hexdigest()
            size_bytes += entry.size_bytes
    return ModelFiles(sha256=hashes, size_bytes=size_bytes)


def fetch_model(storage: Storage, target: Path) -> ModelFiles:
    """Copy a stored model to `target`, in the place of what is there; returns what was read."""
    hashes, size_bytes = {}, 0
    with replacing(target) as draft:
        for entry in storage.list():
            if not is_part_of_model(entry.path):
                continue
            path = inside(draft, entry.path)
            path.parent.mkdir(parents=True, exist_ok=True)
            digest = hashlib.sha256()
            with path.open("wb") as file:
                for piece in _pieces(storage, entry.path, entry.size_bytes):
                    file.write(piece)
                    digest.update(piece)
                file.flush()
                os.fsync(file.fileno())
            hashes[entry.path] = digest.hexdigest()
            size_bytes += entry.size_bytes
    return ModelFiles(sha256=hashes, size_bytes=size_bytes)


def looks_current(storage: Storage, directory: Path) -> bool:
    """Whether a local copy is of what is stored, by the names, the sizes and the last bytes of all files: a few small
    reads. Another training changes every weight, also the last ones."""
    stored = {entry.path: entry.size_bytes for entry in storage.list() if is_part_of_model(entry.path)}
    local = {path.relative_to(directory).as_posix(): path for path in model_file_paths(directory)}
    if stored != {name: path.stat().st_size for name, path in local.items()}:
        return False
    return all(_last_bytes(storage, name, size) == _last_local(local[name], size) for name, size in stored.items())


def send_model(directory: Path, storage: Storage) -> None:
    """Copy a model directory to a storage. Files that are there in their size are left: the place is the content's."""
    there = {entry.path: entry.size_bytes for entry in storage.list()}
    for path in sorted(model_file_paths(directory), key=lambda path: path.name == _LAST):
        name = path.relative_to(directory).as_posix()
        if there.get(name) == path.stat().st_size:
            continue
        # `put_file` takes the file away, so it gets a copy, of its own: another process may send the same model.
        scratch = storage.scratch_dir(_INCOMING) / f"{secrets.token_hex(6)}-{path.name}"
        try:
            shutil.copyfile(path, scratch)
            storage.put_file(name, scratch)
        finally:
            scratch.unlink(missing_ok=True)


def _last_bytes(storage: Storage, path: str, size_bytes: int) -> bytes:
    length = min(_GLANCE_BYTES, size_bytes)
    return storage.read_range(path, size_bytes - length, length)


def _last_local(path: Path, size_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(size_bytes - min(_GLANCE_BYTES, size_bytes))
        return file.read()


def _pieces(storage: Storage, path: str, size_bytes: int) -> Iterator[bytes]:
    for offset in range(0, size_bytes, _PIECE_BYTES):
        yield storage.read_range(path, offset, min(_PIECE_BYTES, size_bytes - offset))
