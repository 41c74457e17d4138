"""Bytes of samples out of shards: neighbours in one read, several reads in flight, passing failures tried again.

    rows ── merge_neighbours ──> ranges ── threads, read_range, retries ──> a future of each sample's bytes

Nothing is read that no row asks for, so no byte is read twice: only ranges that touch are merged. Which failures pass
and which stay is decided here: an error of the storage may pass (it is tried again, with pauses that double), a file
that is missing or too short stays.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass

from vamba.data.memory_pool import MemoryPool
from vamba.data.sample_table import Placed

ReadRange = Callable[[str, int, int], bytes]
"""(shard name, offset in bytes, length in bytes) -> exactly those bytes.

An object with a method `read_into(shard name, offset in bytes, memory to fill)` is read that way, into memory that is
used again.
"""

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 10.0
_STAYS = (EOFError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


class ReaderClosedError(RuntimeError):
    """The reader was closed while this was on its way. Nobody waits for it."""


class UnreadableSampleError(ValueError):
    """A sample whose bytes can't be had, or aren't a sample; the message names it, its shard and its offset."""

    def __init__(self, row: Placed, reason: object) -> None:
        place = f"{row.shard} at byte {row.offset_bytes}, {row.size_bytes} bytes"
        super().__init__(f"Sample {row.id!r} ({place}) can't be read: {reason}")
        self.row = row
        self.reason = str(reason)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadCounts:
    """What has been asked of the storage so far. num_retries: reads that were tried again."""

    num_reads: int = 0
    num_bytes: int = 0
    num_retries: int = 0


def merge_neighbours(rows: Sequence[Placed], max_read_bytes: int) -> list[list[Placed]]:
    """Groups of rows that one read gets: each begins where the one before it ends. In the order they are wanted."""
    order = {row.id: position for position, row in enumerate(rows)}
    groups: list[list[Placed]] = []
    end: tuple[str, int] = ("", -1)
    group_bytes = 0
    for row in sorted(rows, key=lambda row: (row.shard, row.offset_bytes)):
        if (row.shard, row.offset_bytes) != end or group_bytes + row.size_bytes > max_read_bytes:
            groups.append([])
            group_bytes = 0
        groups[-1].append(row)
        group_bytes += row.size_bytes
        end = (row.shard, row.offset_bytes + row.size_bytes)
    return sorted(groups, key=lambda group: min(order[row.id] for row in group))


class Fetcher:
    """Reads samples on the threads of `pool`. After `close`, what has not been read fails at once."""

    def __init__(
        self,
        read_range: ReadRange,
        pool: Executor,
        *,
        memory: MemoryPool,
        max_read_bytes: int,
        retry_for_s: float,
    ) -> None:
        self._read_range, self._pool, self._memory = read_range, pool, memory
        self._read_into: Callable[[str, int, memoryview], None] | None = getattr(read_range, "read_into", None)
        self._max_read_bytes, self._retry_for_s = max_read_bytes, retry_for_s
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._counts = ReadCounts()

    @property
    def counts(self) -> ReadCounts:
        with self._lock:
            return self._counts

    def fetch(self, rows: Sequence[Placed]) -> dict[str, Future[memoryview]]:
        """A future of each row's bytes, by id; it raises UnreadableSampleError where they can't be had."""
        futures: dict[str, Future[memoryview]] = {row.id: Future() for row in rows}
        for group in merge_neighbours(rows, self._max_read_bytes):
            self._pool.submit(self._read_group, group, futures)
        return futures

    def close(self) -> None:
        self._closing.set()

    def _read_group(self, group: Sequence[Placed], futures: dict[str, Future[memoryview]]) -> None:
        first, last = group[0], group[-1]
        begin, end = first.offset_bytes, last.offset_bytes + last.size_bytes
        try:
            content = self._read(first.shard, begin, end - begin)
        except BaseException as error:  # belongs to whoever waits for the samples
            if len(group) > 1 and _stays(error):
                for row in group:  # damage to one is not its neighbours'
                    self._read_group([row], futures)
                return
            for row in group:
                known = isinstance(error, OSError | EOFError)
                futures[row.id].set_exception(UnreadableSampleError(row, error) if known else error)
            return
        for row in group:
            at = row.offset_bytes - begin
            futures[row.id].set_result(content[at : at + row.size_bytes])

    def _read(self, shard: str, offset: int, length: int) -> memoryview:
        pause_s, started = _FIRST_PAUSE_S, time.monotonic()
        while True:
            if self._closing.is_set():
                raise ReaderClosedError
            self._count(num_reads=1, num_bytes=length)
            try:
                return self._read_once(shard, offset, length)
            except OSError as error:
                if _stays(error) or time.monotonic() - started + pause_s > self._retry_for_s:
                    raise
            # Ranks that failed together shall not come back together.
            self._closing.wait(pause_s * random.uniform(0.5, 1.0))
            self._count(num_retries=1)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _read_once(self, shard: str, offset: int, length: int) -> memoryview:
        if self._read_into is None:
            return memoryview(self._read_range(shard, offset, length))
        target = self._memory.take(length).data
        self._read_into(shard, offset, target)
        return target

    def _count(self, *, num_reads: int = 0, num_bytes: int = 0, num_retries: int = 0) -> None:
        with self._lock:
            self._counts = ReadCounts(
                num_reads=self._counts.num_reads + num_reads,
                num_bytes=self._counts.num_bytes + num_bytes,
                num_retries=self._counts.num_retries + num_retries,
            )


def _stays(error: BaseException) -> bool:
    return isinstance(error, _STAYS)
