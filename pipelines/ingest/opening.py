"""Opens the bytes of a source, wherever they are: the only way in which an ingest reads one.

    Location ──> LocalFile: a file, or a member of a local tar, by its descriptor
             └─> RangeFile: an object, or a member of a remote tar, by ranged requests

Either is a seekable binary file with `size_bytes`. container.py makes a media container of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.ingest.positioned import PositionedFile
from pipelines.ingest.ranges import RangeCache, RangeFile
from pipelines.ingest.remote import Ranges, RemoteRanges
from pipelines.ingest.types import IngestError, Location

_HASH_BLOCK_BYTES = 1 << 20

_ranges: Ranges = RemoteRanges()
_latest: tuple[Location, RangeCache] | None = None  # of remote bytes: the next segment of a film needs its index again


def use_ranges(ranges: Ranges) -> None:
    """Decides for this process where the bytes of remote objects come from."""
    global _ranges
    _ranges = ranges


def forget() -> None:
    """Drops the blocks that are kept of the latest object."""
    global _latest
    _latest = None


class LocalFile(PositionedFile):
    """Some bytes of a local file."""

    def __init__(self, path: str, offset_bytes: int = 0, length_bytes: int | None = None) -> None:
        self.path = path
        self.offset_bytes = offset_bytes
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        available = max(0, os.fstat(self._descriptor).st_size - offset_bytes)
        super().__init__(available if length_bytes is None else min(length_bytes, available))
        self.is_part = offset_bytes > 0 or length_bytes is not None

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = max(0, min(len(buffer), self.size_bytes - self._position))
        length = os.preadv(self._descriptor, [memoryview(buffer)[:wanted]], self.offset_bytes + self._position)
        self._position += length
        return length

    def sha256(self) -> str:
        """64 hex digits of all bytes."""
        state = hashlib.sha256()
        self.seek(0)
        while block := self.read(_HASH_BLOCK_BYTES):
            state.update(block)
        return state.hexdigest()


SourceFile = LocalFile | RangeFile


def is_local(location: Location) -> bool:
    """Whether the bytes are in a local (or mounted) file."""
    return "://" not in location.uri or location.uri.startswith("file://")


def open_source(location: Location, *, hashing: bool = False) -> SourceFile:
    """The bytes at a location, as a seekable file; to be closed.

    With `hashing`, a remote file is read afresh, and hashed meanwhile, so that its `sha256` costs no second reading.

    Raises:
        IngestError: "not_found", "permission_denied", "unreachable" or "unsupported", of a remote object.
        OSError: of a local file.
    """
    if is_local(location):
        return LocalFile(location.uri.removeprefix("file://"), location.offset_bytes, location.length_bytes)
    global _latest
    if _latest is None or _latest[0] != location or hashing:
        _latest = None  # its blocks go before others come
        _latest = location, _cache(location, hashing)
    return RangeFile(_latest[1])


def _cache(location: Location, hashing: bool) -> RangeCache:
    size_bytes = location.length_bytes
    if size_bytes is None:
        size_bytes = _ranges.size(location.uri) - location.offset_bytes

    def fetch(offset: int, length: int) -> bytes:
        return _ranges.read(location.uri, location.offset_bytes + offset, length)

    return RangeCache(fetch, size_bytes, hashing=hashing)


@contextmanager
def checked_source(location: Location, *, hashing: bool = False) -> Iterator[SourceFile]:
    """The bytes of a source, of which nothing is known yet.

    Raises:
        IngestError: as `open_source`; "io_error"; "empty"; "not_a_video", if it is no file; "truncated", if the tar
            that holds it ends before it does.
    """
    with _local_errors(location), open_source(location, hashing=hashing) as file:
        if file.size_bytes == 0:
            raise IngestError("empty", "the file has no bytes")
        if location.length_bytes is not None and file.size_bytes < location.length_bytes:
            there = f"{file.size_bytes} of its {location.length_bytes} bytes"
            raise IngestError("truncated", f"the tar ends inside it, after {there}")
        yield file


@contextmanager
def _local_errors(location: Location) -> Iterator[None]:
    path = location.uri.removeprefix("file://")
    try:
        if is_local(location) and not stat.S_ISREG(os.stat(path).st_mode):
            raise IngestError("not_a_video", "it is a folder, a pipe or a device, not a file")
        yield
    except FileNotFoundError as error:
        raise IngestError("not_found", f"there is no file at {path}") from error
    except PermissionError as error:
        raise IngestError("permission_denied", "the file may not be read by this user") from error
    except OSError as error:
        raise IngestError("io_error", f"reading failed: {error.strerror or error}") from error
