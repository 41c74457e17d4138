"""Reads the bytes of a shard forwards, a piece at a time, and the plain tar members in them.

Storage ── range reads of `chunk_bytes` ──> ShardStream ──> headers and contents. Memory is one piece and one member,
whatever the shard's size. Every byte that passes may be hashed on the way; without a hash, what is skipped isn't read.
"""

from __future__ import annotations

import tarfile
from dataclasses import dataclass
from typing import Protocol

from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.storage import Storage

BLOCK_BYTES = 512
WHOLE_PIECES_BYTES = 4 << 20


class Hash(Protocol):
    """What hashlib's objects have."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""


class ShardStream:
    """A forward reader of the bytes `[begin, end)` of a shard."""

    def __init__(
        self, storage: Storage, shard: str, *, begin: int, end: int, chunk_bytes: int, digest: Hash | None = None
    ) -> None:
        self.position = begin
        self._storage, self._path, self._end = storage, f"{SHARDS_PREFIX}/{shard}", end
        self._chunk_bytes, self._digest = chunk_bytes, digest
        self._ready = memoryview(b"")

    def read(self, length: int) -> bytes:
        """Exactly `length` bytes. Raises EOFError where the range ends before, OSError where reading fails."""
        if self.position + length > self._end:
            raise EOFError(f"{length} bytes are asked for at byte {self.position}, but the end is {self._end}")
        parts = []
        while length > 0:
            if not self._ready:
                self._fill()
            part = self._ready[:length]
            self._advance(len(part))
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def skip(self, length: int) -> None:
        """Passes over `length` bytes."""
        if self._digest is None and length > len(self._ready):
            self.position, self._ready = self.position + length, memoryview(b"")
            return
        while length > 0:
            if not self._ready:
                self._fill()
            passed = min(length, len(self._ready))
            self._advance(passed)
            length -= passed

    def _advance(self, length: int) -> None:
        self._ready = self._ready[length:]
        self.position += length

    def _fill(self) -> None:
        length = min(self._chunk_bytes, self._end - self.position)
        if length <= 0:
            raise EOFError(f"nothing is left after byte {self.position}")
        data = self._storage.read_range(self._path, self.position, length)
        if self._digest is not None:
            self._digest.update(data)
        self._ready = memoryview(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """The header of a tar member. Its content, then `padding_bytes` of zeros, follow in the stream."""

    name: str
    size_bytes: int

    @property
    def padding_bytes(self) -> int:
        return -self.size_bytes % BLOCK_BYTES


def read_header(stream: ShardStream) -> Member:
    """The header at the stream's position.

    Raises:
        ValueError, tarfile.TarError: it is not the header of a regular file of a plain tar.
    """
    info = tarfile.TarInfo.frombuf(stream.read(BLOCK_BYTES), "utf-8", "strict")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or info.size < 0:
        raise ValueError(f"member {info.name!r} is not a regular file (tar type {info.type!r}, {info.size} bytes)")
    return Member(name=info.name, size_bytes=info.size)
