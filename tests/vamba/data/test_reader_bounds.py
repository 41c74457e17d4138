"""What the reader holds: bounded by bytes and by steps, and the same after every epoch."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.vamba.data.shards import CONFIG, Shards, encoder, write_shards
from vamba.data.encode import SampleEncoder
from vamba.data.prefetch_window import PrefetchWindow
from vamba.data.reader import PackReader
from vamba.data.reader_config import ReaderConfig
from vamba.data.sample_cache import SampleCache, num_bytes


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("shards"))


def reader_of(shards: Shards, config: ReaderConfig, encode: SampleEncoder | None = None) -> PackReader:
    plan = shards.plan()
    return PackReader(plan, shards.rows, shards.read_range, encode or encoder(), state=plan.start(), config=config)


def settled(reader: PackReader) -> Iterator[None]:
    """Waits until the reader is as far ahead as it may be."""
    pause = threading.Event()
    last = -1
    while reader.stats.bytes_ahead != last:
        last = reader.stats.bytes_ahead
        pause.wait(0.05)
        yield


@pytest.mark.parametrize("prefetch_bytes", [1, 60_000, 1 << 30])
def test_what_is_ahead_stays_within_steps_and_bytes(shards: Shards, prefetch_bytes: int) -> None:
    config = replace(CONFIG, prefetch_steps=3, prefetch_bytes=prefetch_bytes, decode_workers=2)
    with reader_of(shards, config) as reader:
        seen = []
        for _ in range(12):
            for _ in settled(reader):
                stats = reader.stats
                seen.append(stats.num_steps_ahead)
                assert stats.num_steps_ahead <= 3
                assert stats.bytes_ahead <= prefetch_bytes or stats.num_steps_ahead == 1
            next(reader)
    assert max(seen) == (1 if prefetch_bytes == 1 else 3 if prefetch_bytes == 1 << 30 else max(seen))


def test_memory_is_the_same_after_every_epoch(shards: Shards) -> None:
    config = replace(CONFIG, decode_workers=2, cache_bytes=30_000)
    plan = shards.plan()
    held = []
    with reader_of(shards, config) as reader:
        tracemalloc.start()
        try:
            for epoch in range(8):
                for _ in plan.steps(epoch):
                    next(reader)
                for _ in settled(reader):
                    gc.collect()
                held.append(tracemalloc.get_traced_memory()[0])
                assert reader.stats.cache_bytes <= 30_000
        finally:
            tracemalloc.stop()
    one_epoch = sum(encoder().num_bytes(row) for row in shards.rows)
    assert max(held[2:]) - min(held[2:]) < one_epoch  # steps ahead differ; a leak would be a multiple of an epoch


def test_the_window_lets_a_large_step_in_alone() -> None:
    window = PrefetchWindow(limit_steps=3, limit_bytes=100)
    assert window.enter(500, wait=True)
    assert not window.enter(1, wait=False)
    window.shrink(450)
    assert window.enter(50, wait=False)
    assert not window.enter(1, wait=False)
    window.leave(50)
    assert (window.num_steps, window.used_bytes) == (1, 50)
    window.close()
    assert not window.enter(1, wait=True)


def test_the_cache_holds_pixels_of_one_byte_each_up_to_its_limit(shards: Shards) -> None:
    row = shards.rows[0]
    sample = encoder()(shards.read_range(row.shard, row.offset_bytes, row.size_bytes))
    assert sample.patches is not None and sample.patches.dtype == np.uint8
    size = num_bytes(sample)
    assert size == sample.patches.size + sum(t.input_ids.nbytes + t.labels.nbytes for t in sample.texts)
    cache = SampleCache(2 * size)
    for name in ("a", "b", "c", "a"):
        cache.put(replace(sample, id=name))
    assert cache.used_bytes == 2 * size
    assert cache.get("b") is not None and cache.get("c") is None


def test_frames_resized_on_the_device_are_the_same_patches(shards: Shards) -> None:
    """`meta` has no memory and the CPU is no other device, so the move is called as the training step calls it."""
    config = replace(CONFIG, resize_on="device")
    host, device = encoder(config, device="cpu"), encoder(config, device="cuda")
    plan = shards.plan()
    with reader_of(shards, config, host) as ready, reader_of(shards, config, device) as raw:
        for _ in plan.steps(0):
            for a, b in zip(next(ready)[0].micro_batches, next(raw)[0].micro_batches, strict=True):
                assert a.batch.patches_PC is not None
                assert b.batch.patches_PC is None and b.batch.frames_NHWC
                moved = b.batch.to("cpu")
                assert moved.patches_PC is not None and not moved.frames_NHWC
                assert moved.patches_PC.equal(a.batch.patches_PC)
                assert torch.equal(moved.input_ids_T, a.batch.input_ids_T)
                assert a.batch.to("cpu").patches_PC is a.batch.patches_PC


def test_closing_while_reads_hang_on_retries_ends_all_threads(shards: Shards) -> None:
    def broken(shard: str, offset: int, length: int) -> bytes:
        raise OSError("out of reach")

    before = set(threading.enumerate())
    plan = shards.plan()
    config = replace(CONFIG, retry_reads_for_s=3600.0)
    reader = PackReader(plan, shards.rows, broken, encoder(), state=plan.start(), config=config)
    reader.close()
    assert set(threading.enumerate()) <= before
