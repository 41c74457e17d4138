"""Files and objects behind one small interface, for local paths and `s3://` URIs.

A `Storage` is a root; every path given to it is relative to that root, with '/' between parts. Local roots use the
operating system directly (a range read is one pread); S3 is in s3.py. A write is visible whole or not at all: a
temporary file, fsync and rename locally; one put on S3, where a put is atomic. Where several writers may meet,
`create`, `replace` and `delete_version` act only if the file is what the writer knows: one wins, the others are told.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from pipelines.durable import sync
from pipelines.filesystems import check_no_credentials
from pipelines.inside import inside
from pipelines.redaction import redacted
from pipelines.stored_file import StoredFile

_TEMPORARY_SUFFIX = ".tmp"
_RAYS_COPIES = "working_dir_files"  # below which the working directories of submitted jobs lie
_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")


class Storage(Protocol):
    """A root that holds files. Missing files raise FileNotFoundError."""

    @property
    def uri(self) -> str:
        """The root: an absolute path, or `s3://bucket/prefix`."""

    def read_bytes(self, path: str) -> bytes:
        """The whole file."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises EOFError where the file ends before."""

    def read_version(self, path: str) -> tuple[bytes, str]:
        """The whole file, and a name for this state of it, for `replace` and `delete_version`."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Creates or replaces a file; a reader sees the old bytes or the new ones, never a part."""

    def put_file(self, path: str, local_path: Path) -> None:
        """Moves a finished local file to `path`, atomically. The local file is gone afterwards."""

    def create(self, path: str, data: bytes) -> bool:
        """Writes a file only if none is there; says whether it did."""

    def replace(self, path: str, data: bytes, version: str) -> str | None:
        """Writes a file only if it is still in the state `version`; returns its new state, None if it did not."""

    def delete_version(self, path: str, version: str) -> bool:
        """Removes a file only if it is still in the state `version`; says whether it did."""

    def exists(self, path: str) -> bool:
        """Whether there is a file at `path`."""

    def walk(self, prefix: str = "") -> Iterator[StoredFile]:
        """All files below a folder, recursively, in no order, as they are found; none if the folder is missing."""

    def list(self, prefix: str = "") -> list[StoredFile]:
        """What `walk` finds, sorted by path."""

    def delete(self, path: str) -> None:
        """Removes a file; it is no error if there is none."""

    def delete_tree(self, prefix: str) -> None:
        """Removes a folder and all below it; it is no error if there is none."""

    def remove_leftovers(self) -> None:
        """Removes what killed writers left, in the root and in the folders in it, and nobody sees. Conditional writers
        do not mind, others may fail."""

    def scratch_dir(self, prefix: str) -> Path:
        """A local folder for files that `put_file` will take: a folder of a local root, so that it is a rename."""


class LocalStorage:
    """A folder of the local (or mounted) file system."""

    def __init__(self, root: Path) -> None:
        self._root = root.expanduser().absolute()

    @property
    def uri(self) -> str:
        return str(self._root)

    def _at(self, path: str) -> Path:
        return inside(self._root, path)

    def read_bytes(self, path: str) -> bytes:
        return self._at(path).read_bytes()

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            parts = []
            while length > 0:
                part = os.pread(descriptor, length, offset)
                if not part:
                    raise EOFError(f"{self._at(path)} ends {length} bytes before the end of the range asked for")
                parts.append(part)
                offset, length = offset + len(part), length - len(part)
            return parts[0] if len(parts) == 1 else b"".join(parts)
        finally:
            os.close(descriptor)

    def read_version(self, path: str) -> tuple[bytes, str]:
        data = self.read_bytes(path)
        return data, _version_of(data)

    def read_into(self, path: str, offset: int, target: memoryview) -> None:
        """Fills `target` with the bytes from `offset`. Raises EOFError where the file ends before."""
        descriptor = os.open(self._at(path), os.O_RDONLY)
        try:
            while target:
                num_read = os.preadv(descriptor, [target], offset)
                if num_read == 0:
                    raise EOFError(f"{self._at(path)} ends {len(target)} bytes before the end of the range asked for")
                offset, target = offset + num_read, target[num_read:]
        finally:
            os.close(descriptor)

    def write_atomic(self, path: str, data: bytes) -> None:
        temporary = self._write_temporary(path, data)
        os.replace(temporary, self._at(path))
        sync(self._at(path).parent)

    def put_file(self, path: str, local_path: Path) -> None:
        target = self._at(path)
        _make_folder(target.parent)
        with open(local_path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(local_path, target)
        sync(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        _make_folder(self._at(path).parent)
        with _alone_in(self._at(path).parent):
            temporary = self._write_temporary(path, data)
            try:
                os.link(temporary, self._at(path))  # fails if the name exists: content and exclusivity in one step
            except FileExistsError:
                return False
            finally:
                temporary.unlink()
        sync(self._at(path).parent)
        return True

    def replace(self, path: str, data: bytes, version: str) -> str | None:
        with _alone_in(self._at(path).parent):
            if not self._is_version(path, version):
                return None
            self.write_atomic(path, data)
        return _version_of(data)

    def delete_version(self, path: str, version: str) -> bool:
        with _alone_in(self._at(path).parent):
            if not self._is_version(path, version):
                return False
            self.delete(path)
        return True

    def _is_version(self, path: str, version: str) -> bool:
        try:
            return self.read_version(path)[1] == version
        except FileNotFoundError:
            return False

    def exists(self, path: str) -> bool:
        return self._at(path).is_file()

    def walk(self, prefix: str = "") -> Iterator[StoredFile]:
        for folder, _, names in os.walk(self._at(prefix)):
            for name in names:
                if name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX):
                    continue
                full = Path(folder, name)
                with contextlib.suppress(FileNotFoundError):  # removed while we walk
                    size_bytes = full.stat().st_size
                    yield StoredFile(path=full.relative_to(self._root).as_posix(), size_bytes=size_bytes)

    def list(self, prefix: str = "") -> list[StoredFile]:
        return sorted(self.walk(prefix), key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        shutil.rmtree(self._at(prefix), ignore_errors=True)

    def remove_leftovers(self) -> None:
        with _alone_in(self._root):
            for pattern in (f".*{_TEMPORARY_SUFFIX}", f"*/.*{_TEMPORARY_SUFFIX}"):
                for path in self._root.glob(pattern):
                    if _TEMPORARY.fullmatch(path.name):
                        path.unlink(missing_ok=True)

    def scratch_dir(self, prefix: str) -> Path:
        folder = self._at(prefix)
        _make_folder(folder)
        return folder

    def _write_temporary(self, path: str, data: bytes) -> Path:
        target = self._at(path)
        _make_folder(target.parent)
        temporary = target.parent / f".{target.name}.{secrets.token_hex(6)}{_TEMPORARY_SUFFIX}"
        try:
            with open(temporary, "xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return temporary


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at a local path, a `file://` URI or an `s3://` URI. Nothing is created until something is written.

    Raises:
        ValueError: the URI has another scheme, or carries credentials.
    """
    text = os.fspath(uri)
    check_no_credentials(text, "a storage address")
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStorage(Path(text))
    if scheme == "file":
        return LocalStorage(Path(rest))
    if scheme == "s3":
        from pipelines.s3 import S3Storage

        return S3Storage(text)
    raise ValueError(f"storage URI {text!r} has the scheme {scheme!r}; use a local path, file:// or s3://")


def vamba_home() -> Path:
    """Where runs, checkpoints and tracking data go by default: $VAMBA_HOME, or `.vamba` in the current folder.

    Raises:
        ValueError: it is an address; or it is unset, and the current folder is one that a Ray cluster removes with its
            job.
    """
    named = os.environ.get("VAMBA_HOME")
    if named:
        check_home(named)
    home = Path(named or ".vamba").expanduser().absolute()
    if _RAYS_COPIES in home.parts:
        is_so = f"is {named!r}, below the job's working directory" if named else "is not set"
        raise ValueError(
            f"VAMBA_HOME {is_so}, and what a job keeps in its copy of the source tree is gone with it: name storage "
            "that every node mounts by --env VAMBA_HOME=/PATH, or set it where the cluster's nodes start."
        )
    return home


def check_home(home: str) -> None:
    """Raises ValueError for a VAMBA_HOME that is no folder but an address, of which a path would be made."""
    if "://" in home:
        raise ValueError(
            f"VAMBA_HOME is {redacted(home)!r}, but runs are kept on a file system that all workers see: name a "
            "folder. Copies of checkpoints go to an object store by `mirror`, models by VAMBA_MODELS."
        )


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keeps other conditional writers out of a folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:  # nothing to keep anybody from
        yield
        return
    try:
        # Some network file systems lock no folders; there two writers may meet between comparison and write.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # unlocks


def _version_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _make_folder(folder: Path) -> None:
    """Makes a folder and those above it, so that they outlive a power cut as what is written into them does."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)
