"""Files and objects behind one small interface, for local paths and `s3://` URIs.

A `Storage` is a root; every path given to it is relative to that root, with '/' between parts. Local roots use the
operating system directly (a range read is one pread); S3 goes through pyarrow.fs, imported only then. A write is
visible whole or not at all: a temporary file, fsync and rename locally; one put on S3, where a put is atomic.
"""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

_TEMPORARY_SUFFIX = ".tmp"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """An entry of a listing."""

    path: str  # relative to the root
    size_bytes: int


class Storage(Protocol):
    """A root that holds files. Missing files raise FileNotFoundError."""

    @property
    def uri(self) -> str:
        """The root: an absolute path, or `s3://bucket/prefix`."""

    def read_bytes(self, path: str) -> bytes:
        """The whole file."""

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises EOFError where the file ends before."""

    def write_atomic(self, path: str, data: bytes) -> None:
        """Creates or replaces a file; a reader sees the old bytes or the new ones, never a part."""

    def put_file(self, path: str, local_path: Path) -> None:
        """Moves a finished local file to `path`, atomically. The local file is gone afterwards."""

    def create(self, path: str, data: bytes) -> bool:
        """Writes a file only if none is there; says whether it did."""

    def exists(self, path: str) -> bool:
        """Whether there is a file at `path`."""

    def list(self, prefix: str = "") -> list[StoredFile]:
        """All files below a folder, recursively, sorted by path; none if the folder is missing."""

    def delete(self, path: str) -> None:
        """Removes a file; it is no error if there is none."""

    def delete_tree(self, prefix: str) -> None:
        """Removes a folder and all below it; it is no error if there is none."""

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
        return self._root / path

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
        _sync_directory(self._at(path).parent)

    def put_file(self, path: str, local_path: Path) -> None:
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(local_path, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(local_path, target)
        _sync_directory(target.parent)

    def create(self, path: str, data: bytes) -> bool:
        temporary = self._write_temporary(path, data)
        try:
            os.link(temporary, self._at(path))  # fails if the name exists: content and exclusivity in one step
        except FileExistsError:
            return False
        finally:
            temporary.unlink()
        _sync_directory(self._at(path).parent)
        return True

    def exists(self, path: str) -> bool:
        return self._at(path).is_file()

    def list(self, prefix: str = "") -> list[StoredFile]:
        found = []
        for folder, _, names in os.walk(self._at(prefix)):
            for name in names:
                if name.startswith(".") and name.endswith(_TEMPORARY_SUFFIX):
                    continue
                full = Path(folder, name)
                path = full.relative_to(self._root).as_posix()
                found.append(StoredFile(path=path, size_bytes=full.stat().st_size))
        return sorted(found, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        self._at(path).unlink(missing_ok=True)

    def delete_tree(self, prefix: str) -> None:
        shutil.rmtree(self._at(prefix), ignore_errors=True)

    def scratch_dir(self, prefix: str) -> Path:
        folder = self._at(prefix)
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _write_temporary(self, path: str, data: bytes) -> Path:
        target = self._at(path)
        target.parent.mkdir(parents=True, exist_ok=True)
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


class S3Storage:
    """A prefix of an S3 bucket. Credentials, region and endpoint come from the usual AWS_* variables."""

    def __init__(self, uri: str) -> None:
        from pyarrow import fs

        self._uri = uri.rstrip("/")
        self._root = self._uri.removeprefix("s3://")
        if not self._root:
            raise ValueError(f"storage URI {uri!r} names no bucket; write s3://BUCKET/PREFIX")
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        options: dict[str, Any] = {}
        if endpoint:
            scheme, _, host = endpoint.rpartition("://")
            options = {"endpoint_override": host, "scheme": scheme or "https"}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region:
            options["region"] = region
        self._fs = fs.S3FileSystem(**options)

    @property
    def uri(self) -> str:
        return self._uri

    def _at(self, path: str) -> str:
        return f"{self._root}/{path}".rstrip("/")

    def read_bytes(self, path: str) -> bytes:
        with self._fs.open_input_file(self._at(path)) as file:
            return bytes(file.read())

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        with self._fs.open_input_file(self._at(path)) as file:
            data = bytes(file.read_at(length, offset))
        if len(data) != length:
            raise EOFError(f"{self._uri}/{path} ends before byte {offset + length}")
        return data

    def write_atomic(self, path: str, data: bytes) -> None:
        # The whole object is in memory, so nothing can fail between opening the stream and its end: leaving pyarrow's
        # stream by an exception would publish what was written until then.
        with self._fs.open_output_stream(self._at(path)) as file:
            file.write(data)

    def put_file(self, path: str, local_path: Path) -> None:
        self.write_atomic(path, local_path.read_bytes())
        local_path.unlink()

    def create(self, path: str, data: bytes) -> bool:
        if self.exists(path):
            return False
        self.write_atomic(path, data)
        return self.read_bytes(path) == data

    def exists(self, path: str) -> bool:
        from pyarrow import fs

        return bool(self._fs.get_file_info(self._at(path)).type == fs.FileType.File)

    def list(self, prefix: str = "") -> list[StoredFile]:
        from pyarrow import fs

        selector = fs.FileSelector(self._at(prefix), recursive=True, allow_not_found=True)
        found = [
            StoredFile(path=info.path.removeprefix(self._root + "/"), size_bytes=info.size)
            for info in self._fs.get_file_info(selector)
            if info.type == fs.FileType.File
        ]
        return sorted(found, key=lambda entry: entry.path)

    def delete(self, path: str) -> None:
        if self.exists(path):
            self._fs.delete_file(self._at(path))

    def delete_tree(self, prefix: str) -> None:
        from pyarrow import fs

        if self._fs.get_file_info(self._at(prefix)).type != fs.FileType.NotFound:
            self._fs.delete_dir(self._at(prefix))

    def scratch_dir(self, prefix: str) -> Path:
        import tempfile

        return Path(tempfile.gettempdir())


def open_storage(uri: str | os.PathLike[str]) -> Storage:
    """The storage at a local path, a `file://` URI or an `s3://` URI. Nothing is created until something is written.

    Raises:
        ValueError: the URI has another scheme.
    """
    text = os.fspath(uri)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStorage(Path(text))
    if scheme == "file":
        return LocalStorage(Path(rest))
    if scheme == "s3":
        return S3Storage(text)
    raise ValueError(f"storage URI {text!r} has the scheme {scheme!r}; use a local path, file:// or s3://")


def vamba_home() -> Path:
    """Where runs, checkpoints and tracking data go by default: $VAMBA_HOME, or `.vamba` in the current folder."""
    return Path(os.environ.get("VAMBA_HOME") or ".vamba").expanduser().absolute()


def _sync_directory(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
