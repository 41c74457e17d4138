"""Reads from storage: merged where they touch, tried again where that may help, and never more than was asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from tests.distributed.dataset import make_sample
from tests.vamba.data.shards import row_of
from vamba.data.fetch import Fetcher, ReaderClosedError, ReadRange, UnreadableSampleError, merge_neighbours
from vamba.data.manifest import SampleRow
from vamba.data.memory_pool import MemoryPool

CONTENT = bytes(range(256)) * 4
ROWS = [
    replace(row_of(make_sample(i), "a.tar", 100 * i, 100), id=f"r{i}") for i in range(8)
]  # touch one another, in one shard


@pytest.fixture(scope="module")
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(3) as threads:
        yield threads


def fetcher(pool: ThreadPoolExecutor, read_range: ReadRange, *, retry_for_s: float = 0.0) -> Fetcher:
    return Fetcher(read_range, pool, memory=MemoryPool(1000), max_read_bytes=350, retry_for_s=retry_for_s)


def read(shard: str, offset: int, length: int) -> bytes:
    return CONTENT[offset : offset + length]


def ids(groups: list[list[SampleRow]]) -> list[list[str]]:
    return [[row.id for row in group] for group in groups]


def test_only_rows_that_touch_are_merged_up_to_the_limit() -> None:
    wanted = [ROWS[i] for i in (5, 1, 0, 2, 3, 7)]
    assert ids(merge_neighbours(wanted, 350)) == [["r5"], ["r0", "r1", "r2"], ["r3"], ["r7"]]
    assert ids(merge_neighbours(wanted, 10)) == [["r5"], ["r1"], ["r0"], ["r2"], ["r3"], ["r7"]]
    elsewhere = replace(ROWS[1], shard="b.tar")
    assert ids(merge_neighbours([ROWS[0], elsewhere], 350)) == [["r0"], ["r1"]]


def test_every_row_gets_its_own_bytes(pool: ThreadPoolExecutor) -> None:
    source = fetcher(pool, read)
    futures = source.fetch([ROWS[4], ROWS[0], ROWS[1]])
    assert {name: bytes(future.result()) for name, future in futures.items()} == {
        f"r{i}": CONTENT[100 * i : 100 * i + 100] for i in (4, 0, 1)
    }
    assert (source.counts.num_reads, source.counts.num_bytes) == (2, 300)


def test_several_reads_are_in_flight(pool: ThreadPoolExecutor) -> None:
    together = threading.Barrier(3, timeout=30)

    def slow(shard: str, offset: int, length: int) -> bytes:
        together.wait()
        return read(shard, offset, length)

    futures = fetcher(pool, slow).fetch([ROWS[0], ROWS[2], ROWS[4]])
    assert all(len(future.result()) == 100 for future in futures.values())


def test_a_passing_failure_is_tried_again(pool: ThreadPoolExecutor) -> None:
    failures = iter([OSError("503 slow down"), OSError("connection reset")])

    def flaky(shard: str, offset: int, length: int) -> bytes:
        for error in failures:
            raise error
        return read(shard, offset, length)

    source = fetcher(pool, flaky, retry_for_s=60)
    assert bytes(source.fetch([ROWS[3]])["r3"].result()) == CONTENT[300:400]
    assert source.counts.num_retries == 2


def test_a_failure_that_lasts_names_the_sample_and_its_place(pool: ThreadPoolExecutor) -> None:
    def broken(shard: str, offset: int, length: int) -> bytes:
        raise OSError("no route to host")

    futures = fetcher(pool, broken).fetch(ROWS[2:4])
    for row in ROWS[2:4]:
        with pytest.raises(UnreadableSampleError, match=rf"'{row.id}' \(a.tar at byte {row.offset_bytes}, 100 bytes\)"):
            futures[row.id].result()


def test_a_shard_that_ends_early_costs_only_the_samples_beyond_its_end(pool: ThreadPoolExecutor) -> None:
    def short(shard: str, offset: int, length: int) -> bytes:
        if offset + length > 150:
            raise EOFError("the file ends at byte 150")
        return read(shard, offset, length)

    source = fetcher(pool, short, retry_for_s=60)
    futures = source.fetch(ROWS[:3])
    assert bytes(futures["r0"].result()) == CONTENT[:100]
    for name in ("r1", "r2"):
        with pytest.raises(UnreadableSampleError, match="ends at byte 150"):
            futures[name].result()
    assert source.counts.num_retries == 0


def test_closing_ends_the_wait_for_a_next_try(pool: ThreadPoolExecutor) -> None:
    tried = threading.Event()

    def broken(shard: str, offset: int, length: int) -> bytes:
        tried.set()
        raise OSError("out of reach")

    source = fetcher(pool, broken, retry_for_s=3600)
    future = source.fetch([ROWS[0]])["r0"]
    assert tried.wait(30)
    source.close()
    with pytest.raises(ReaderClosedError):
        future.result(timeout=30)
