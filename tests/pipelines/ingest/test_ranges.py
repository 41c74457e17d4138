"""A file over ranged requests: the right bytes, large requests for a scan, small ones for a jump, little memory."""

from __future__ import annotations

import hashlib
import io
import random

import pytest

from pipelines.ingest.ranges import BLOCK_BYTES, CACHE_BYTES, MAX_RUN_BYTES, RangeCache, RangeFile
from pipelines.ingest.read_ahead import ReadAhead
from pipelines.ingest.types import IngestError


class Store:
    """An object of any size whose bytes need no memory: block k is full of k."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.requests: list[tuple[int, int]] = []

    def fetch(self, offset: int, length: int) -> bytes:
        assert 0 < length <= MAX_RUN_BYTES and offset + length <= self.size_bytes
        self.requests.append((offset, length))
        return self.content(offset, length)

    def content(self, offset: int, length: int) -> bytes:
        parts = []
        while length > 0:
            part = min(length, BLOCK_BYTES - offset % BLOCK_BYTES)
            parts.append(bytes([offset // BLOCK_BYTES % 251]) * part)
            offset, length = offset + part, length - part
        return b"".join(parts)

    @property
    def requested_bytes(self) -> int:
        return sum(length for _, length in self.requests)


def test_random_reads_give_the_bytes_of_the_object() -> None:
    data = random.Random(1).randbytes(3 * BLOCK_BYTES + 12345)
    file = RangeFile(RangeCache(lambda offset, length: data[offset : offset + length], len(data)))
    expected, dice = io.BytesIO(data), random.Random(2)
    for _ in range(300):
        offset, whence = dice.choice([(dice.randrange(len(data) + 50), 0), (-dice.randrange(200), 2), (7, 1)])
        assert file.seek(offset, whence) == expected.seek(offset, whence)
        length = dice.choice([0, 1, 700, 2 * BLOCK_BYTES, -1])
        assert file.read(length) == expected.read(length)


def test_a_scan_makes_few_requests_and_holds_little_of_a_large_object() -> None:
    store = Store(300 * 1024**2 + 17)
    file = RangeFile(RangeCache(store.fetch, store.size_bytes))
    most = 0
    while file.read(100_000):
        most = max(most, file.cache.held_bytes)
    assert most <= CACHE_BYTES
    assert store.requested_bytes == store.size_bytes  # each byte once
    assert len(store.requests) <= 6 + store.size_bytes // MAX_RUN_BYTES


def test_a_jump_reads_one_block() -> None:
    store = Store(100 * 1024**2)
    file = RangeFile(RangeCache(store.fetch, store.size_bytes))
    for offset in (80 * 1024**2, 10 * 1024**2, 40 * 1024**2):
        file.seek(offset)
        file.read(1000)
    assert store.requested_bytes == 3 * BLOCK_BYTES


def test_two_positions_that_advance_by_turns_are_two_scans() -> None:
    store = Store(120 * 1024**2)
    file = RangeFile(RangeCache(store.fetch, store.size_bytes))
    half = store.size_bytes // 2
    for step in range(0, 40 * 1024**2, 50_000):
        for start in (0, half):
            file.seek(start + step)
            assert file.read(50_000) == store.content(start + step, 50_000)
    assert len(store.requests) < 30


@pytest.mark.parametrize("scanned_bytes", [0, 1000, 20 * 1024**2, 40 * 1024**2])
def test_a_digest_after_a_scan_reads_only_the_rest(scanned_bytes: int) -> None:
    store = Store(40 * 1024**2)
    file = RangeFile(RangeCache(store.fetch, store.size_bytes, hashing=True))
    file.seek(39 * 1024**2)  # as for an index at the end
    file.read(1000)
    file.seek(0)
    file.read(scanned_bytes)
    assert file.sha256() == hashlib.sha256(store.content(0, store.size_bytes)).hexdigest()
    assert store.requested_bytes <= store.size_bytes + BLOCK_BYTES


class Shared:
    """Serves and counts, as `remote.Ranges`."""

    def __init__(self, store: Store, failures: int = 0) -> None:
        self.store, self.failures = store, failures
        self.offsets: list[int] = []

    def size(self, uri: str) -> int:
        return self.store.size_bytes

    def read(self, uri: str, offset: int, length: int) -> bytes:
        self.offsets.append(offset)
        if self.failures:
            self.failures -= 1
            raise IngestError("unreachable", "for a moment")
        return self.store.fetch(offset, length)


@pytest.mark.parametrize("failures", [0, 2])
def test_a_scan_finds_its_next_run_fetched(failures: int) -> None:
    store = Store(60 * 1024**2 + 5)
    now, later = Shared(store), Shared(store, failures)
    ahead = ReadAhead(now, later)
    file = RangeFile(RangeCache(lambda offset, length: ahead.read("s3://b/a", offset, length), ahead.size("s3://b/a")))
    position = 0
    while part := file.read(1024**2):
        assert part == store.content(position, len(part))
        position += len(part)
    assert position == store.size_bytes
    assert len(now.offsets) == 3 + failures  # 256 KiB, 512 KiB, 1 MiB, and what could not be had ahead
    if not failures:
        assert store.requested_bytes == store.size_bytes


def test_jumps_read_nothing_ahead() -> None:
    store = Store(60 * 1024**2)
    now, later = Shared(store), Shared(store)
    ahead = ReadAhead(now, later)
    cache = RangeCache(lambda offset, length: ahead.read("s3://b/a", offset, length), store.size_bytes)
    for index in (9, 150, 10, 80):
        cache.block(index)
    assert not later.offsets


def test_what_was_fetched_for_one_place_is_not_given_for_another() -> None:
    store = Store(60 * 1024**2)
    ahead = ReadAhead(Shared(store), Shared(store))
    run = 4 * 1024**2
    ahead.read("s3://b/a", 0, run)
    assert ahead.read("s3://b/a", 20 * 1024**2, 100) == store.content(20 * 1024**2, 100)
    assert ahead.read("s3://b/a", run, 300) == store.content(run, 300)
