"""Frames as the model takes them, kept on disk: decoded and resized once, whatever is asked about them later.

    VAMBA_HOME/cache/frames/KEY.frames      pixels, raw uint8, then their shape and checksum

A key is made of what the pixels depend on: the file (its size, time and a sample of its bytes, not its path), the part and
the number of frames that are shown, and how they are resized. So benchmarks that show the same videos in the same way
share them, and so do protocols and models. An entry appears complete or not at all and is checked before it is used; a
damaged one is thrown away and made again. What was used longest ago goes first when the limit is reached. Several
processes may share a cache: an entry that one removes stays readable for another that has it open. Nothing that happens to
the cache stops an evaluation; at worst the frames are decoded again.
"""  # noqa: E501

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Generator, Iterator, Mapping
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

import numpy as np

_SUFFIX = ".frames"
_MAGIC = b"VFRAMES1"
_TAIL_BYTES = len(_MAGIC) + 8
_READ_BYTES = 8 << 20
_PIECE_FRAMES = 64
_LEFTOVER_S = 3600.0
"""A file that is being written changes all the time; one that did not for an hour was left by a process that died."""
_RESERVED_SHARE = 0.1
"""Of the disk, left to others."""
_BLOCK_BYTES, _NUM_BLOCKS = 1 << 16, 16


class Shape(NamedTuple):
    """Of an entry's pixels, uint8[num_frames, height, width, 3]."""

    num_frames: int
    height: int
    width: int

    @property
    def num_bytes(self) -> int:
        return self.num_frames * self.height * self.width * 3


class CacheEntry:
    """Frames that were found: to be read once, by `pieces`, which closes the file."""

    def __init__(self, file: BufferedReader, shape: Shape) -> None:
        self._file = file
        self.num_frames = shape.num_frames
        self._shape = shape

    def pieces(self) -> Generator[np.ndarray, None, None]:
        """uint8[N, H, W, 3] of consecutive frames. Raises OSError where the disk fails."""
        with self._file:
            self._file.seek(0)
            for start in range(0, self.num_frames, _PIECE_FRAMES):
                count = min(_PIECE_FRAMES, self.num_frames - start)
                piece = np.empty((count, self._shape.height, self._shape.width, 3), np.uint8)
                if self._file.readinto(piece.data.cast("B")) != piece.nbytes:
                    raise OSError(f"{self._file.name} ended early")
                yield piece


class FrameCache:
    """limit_bytes: of all entries together."""

    def __init__(self, directory: Path, limit_bytes: int) -> None:
        self._directory = directory
        self._limit_bytes = limit_bytes

    def find(self, key: str) -> CacheEntry | None:
        """The whole and unharmed entry, None where there is none; it counts as used now."""
        path = self._directory / f"{key}{_SUFFIX}"
        try:
            file = path.open("rb")
        except OSError:
            return None
        try:
            shape = _checked(file)
            if shape is not None:
                os.utime(path)
                return CacheEntry(file, shape)
        except OSError:
            shape = None
        file.close()
        with contextlib.suppress(OSError):
            path.unlink()
        return None

    def keep(
        self, key: str, pieces: Generator[np.ndarray, None, None], num_frames: int
    ) -> Generator[np.ndarray, None, None]:
        """The same pieces, written down as they pass; an entry comes to be when all `num_frames` have passed."""
        writing: _Writing | None = None
        with contextlib.closing(pieces):
            try:
                for piece in pieces:
                    if writing is None:
                        writing = self._begin(key, Shape(num_frames, piece.shape[1], piece.shape[2]))
                    writing.add(piece)
                    yield piece
                if writing is not None and writing.finish(self._directory / f"{key}{_SUFFIX}"):
                    self._make_room(0)
            finally:
                if writing is not None:
                    writing.discard()

    def _begin(self, key: str, shape: Shape) -> _Writing:
        if shape.num_bytes > self._limit_bytes:
            return _Writing(None, shape)
        temporary = self._directory / f".{key}.{os.getpid()}.{time.monotonic_ns():x}"
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._make_room(shape.num_bytes)
            disk = shutil.disk_usage(self._directory)
            if disk.free - shape.num_bytes < disk.total * _RESERVED_SHARE:
                return _Writing(None, shape)
            return _Writing(temporary, shape)
        except OSError:
            return _Writing(None, shape)

    def _make_room(self, num_bytes: int) -> None:
        """Remove what was used longest ago until that much fits below the limit, and what dead processes left."""
        with contextlib.suppress(OSError), _alone_in(self._directory):
            entries = []
            for path in self._directory.iterdir():
                try:
                    status = path.stat()
                except OSError:
                    continue  # another process removed it
                if path.suffix == _SUFFIX and not path.name.startswith("."):
                    entries.append((status.st_mtime_ns, status.st_size, path))
                elif path.name.startswith(".") and path.name != _LOCK and time.time() - status.st_mtime > _LEFTOVER_S:
                    path.unlink(missing_ok=True)
            total = sum(size for _, size, _ in entries)
            for _, size, path in sorted(entries):
                if total + num_bytes <= self._limit_bytes:
                    return
                path.unlink(missing_ok=True)
                total -= size


class _Writing:
    """A file that becomes an entry. Where it can't be written any more it is given up in silence: it is a cache."""

    def __init__(self, temporary: Path | None, shape: Shape) -> None:
        self._temporary, self._shape = temporary, shape
        self._file = temporary.open("xb") if temporary else None
        self._num_frames, self._checksum = 0, 0

    def add(self, piece_NHWC: np.ndarray) -> None:
        if self._file is None:
            return
        try:
            pixels = np.ascontiguousarray(piece_NHWC).data.cast("B")
            self._file.write(pixels)
            self._checksum = zlib.crc32(pixels, self._checksum)
            self._num_frames += len(piece_NHWC)
        except OSError:
            self.discard()

    def finish(self, path: Path) -> bool:
        """Whether it is an entry now."""
        if self._file is None or self._num_frames != self._shape.num_frames:
            return False
        about = json.dumps({"shape": self._shape, "crc32": self._checksum}).encode()
        try:
            assert self._temporary is not None
            self._file.write(about + len(about).to_bytes(8, "little") + _MAGIC)
            self._file.close()
            self._temporary.replace(path)
        except OSError:
            return False
        self._file = self._temporary = None
        return True

    def discard(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        if self._temporary is not None:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
        self._file = self._temporary = None


_LOCK = ".lock"


@contextlib.contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Keeps other processes from removing entries at the same time: two would remove twice as many."""
    with (directory / _LOCK).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _checked(file: BufferedReader) -> Shape | None:
    """The shape of an entry whose every byte is as it was written, else None. Raises OSError."""
    size = file.seek(0, os.SEEK_END)
    if size < _TAIL_BYTES:
        return None
    file.seek(size - _TAIL_BYTES)
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:8], "little")
    if tail[8:] != _MAGIC or length > size - _TAIL_BYTES:
        return None
    file.seek(size - _TAIL_BYTES - length)
    try:
        about = json.loads(file.read(length))
        shape, expected = Shape(*about["shape"]), about["crc32"]
    except (ValueError, TypeError, KeyError):
        return None
    if shape.num_bytes != size - _TAIL_BYTES - length:
        return None
    file.seek(0)
    checksum, left = 0, shape.num_bytes
    while left:
        block = file.read(min(_READ_BYTES, left))
        if not block:
            return None
        checksum, left = zlib.crc32(block, checksum), left - len(block)
    return shape if checksum == expected else None


def cache_key(path: Path, how: Mapping[str, object]) -> str:
    """Of the frames of a file. how: all else that the pixels depend on, as JSON takes it. Raises OSError."""
    about = {"source": _identity(path), **how}
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()[:32]


def _identity(path: Path) -> list[object]:
    """Size, time of the last change, and a digest of blocks spread over the file (all of it, where it is small)."""
    with path.open("rb") as file:
        status = os.fstat(file.fileno())
        last = max(0, status.st_size - _BLOCK_BYTES)
        total = hashlib.sha256()
        for number in range(_NUM_BLOCKS):
            file.seek(last * number // (_NUM_BLOCKS - 1))
            total.update(file.read(_BLOCK_BYTES))
    return [status.st_size, status.st_mtime_ns, total.hexdigest()]
