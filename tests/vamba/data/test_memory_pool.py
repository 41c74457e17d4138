"""Memory comes back when nothing refers to it any more, not before, and only so much is kept."""

from __future__ import annotations

import gc

import numpy as np
import torch

from vamba.data.memory_pool import MemoryPool


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_is_used_again_when_the_last_view_is_gone() -> None:
    pool = MemoryPool(keep_bytes=10_000)
    taken = pool.empty((10, 100))
    place = address(taken)
    view, tensor, bytes_view = taken[3:5].reshape(-1), torch.from_numpy(taken[7]), taken[9].data
    del taken
    assert address(pool.take(1000)) != place
    del view
    assert address(pool.take(1000)) != place
    del tensor
    assert address(pool.take(1000)) != place
    bytes_view.release()
    del bytes_view
    gc.collect()
    again = [pool.take(1000) for _ in range(5)]
    assert place in map(address, again)


def test_only_blocks_of_a_like_size_are_given() -> None:
    pool = MemoryPool(keep_bytes=10_000)
    pool.take(1024)
    assert pool.free_bytes == 1024
    assert len(pool.take(500)) == 500
    assert pool.free_bytes == 1024 + 512
    kept = pool.take(800)
    assert len(kept) == 800 and pool.free_bytes == 512


def test_no_more_is_kept_than_allowed() -> None:
    pool = MemoryPool(keep_bytes=2500)
    blocks = [pool.take(1024) for _ in range(4)]
    assert pool.free_bytes == 0
    del blocks
    assert pool.free_bytes == 2048
