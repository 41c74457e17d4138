"""A remote object, or a part of one, as seekable files that keep little of it in memory.

    RangeFile.read(n) ──> RangeCache: blocks of 256 KiB, at most 32 MiB ──missing──> one request for a run of blocks

A reader that goes on where a run ended gets a run of twice the length, up to 8 MiB; one that jumps starts again with a
single block. So a scan makes large requests and a jump to one GOP reads little more than that GOP. Several positions
may advance side by side, as sound and picture do in a badly interleaved file.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

from pipelines.ingest.positioned import PositionedFile

BLOCK_BYTES = 256 * 1024
CACHE_BYTES = 32 * 1024**2
MAX_RUN_BYTES = 8 * 1024**2
_MAX_POSITIONS = 64  # of which the length of the next run is remembered


class RangeCache:
    """Some blocks of an object of `size_bytes` bytes, of which `fetch(offset, length)` gives any range exactly.

    With `hashing`, what arrives in order is hashed at once, so that `sha256` after a scan requests little again.
    """

    def __init__(self, fetch: Callable[[int, int], bytes], size_bytes: int, *, hashing: bool = False) -> None:
        self.size_bytes = size_bytes
        self._fetch = fetch
        self._blocks: OrderedDict[int, bytes] = OrderedDict()  # by index, the least recently used first
        self._next_run: OrderedDict[int, int] = OrderedDict()  # blocks to request at once, by the index they begin at
        self._sha256 = hashlib.sha256() if hashing else None
        self._num_hashed = 0  # bytes, from the start

    @property
    def held_bytes(self) -> int:
        """What is in memory."""
        return sum(map(len, self._blocks.values()))

    def block(self, index: int) -> bytes:
        """The bytes from `index * BLOCK_BYTES` on: a block, less at the end."""
        if index not in self._blocks:
            self._request(index)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def sha256(self) -> str:
        """64 hex digits of all bytes."""
        assert self._sha256 is not None
        while self._num_hashed < self.size_bytes:
            index = self._num_hashed // BLOCK_BYTES
            self._hash(index * BLOCK_BYTES, self.block(index))
        return self._sha256.hexdigest()

    def _request(self, first: int) -> None:
        num_blocks = self._next_run.pop(first, 1)
        for later in range(first + 1, first + num_blocks):
            if later in self._blocks:
                num_blocks = later - first
                break
        offset = first * BLOCK_BYTES
        data = self._fetch(offset, min(num_blocks * BLOCK_BYTES, self.size_bytes - offset))
        if self._sha256 is not None:
            self._hash(offset, data)
        while len(self._blocks) > CACHE_BYTES // BLOCK_BYTES - num_blocks:
            self._blocks.popitem(last=False)
        for start in range(0, len(data), BLOCK_BYTES):
            self._blocks[first + start // BLOCK_BYTES] = data[start : start + BLOCK_BYTES]
        self._next_run[first + num_blocks] = min(2 * num_blocks, MAX_RUN_BYTES // BLOCK_BYTES)
        if len(self._next_run) > _MAX_POSITIONS:
            self._next_run.popitem(last=False)

    def _hash(self, offset: int, data: bytes) -> None:
        assert self._sha256 is not None
        if offset <= self._num_hashed < offset + len(data):
            self._sha256.update(memoryview(data)[self._num_hashed - offset :])
            self._num_hashed = offset + len(data)


class RangeFile(PositionedFile):
    """A position in a cached object. Reads are never short, but at the end."""

    def __init__(self, cache: RangeCache) -> None:
        super().__init__(cache.size_bytes)
        self.cache = cache

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self.size_bytes - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        parts = []
        while wanted > 0:
            index, start = divmod(self._position, BLOCK_BYTES)
            part = self.cache.block(index)[start : start + wanted]
            parts.append(part)
            self._position += len(part)
            wanted -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def readall(self) -> bytes:
        return self.read(-1)

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sha256(self) -> str:
        """64 hex digits of all bytes."""
        return self.cache.sha256()
