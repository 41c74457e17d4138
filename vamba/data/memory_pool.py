"""Memory that is used again: for bytes that are read and for pixels that are decoded.

    take(n) ──> uint8[n] ── views of it, tensors over it ── the last of them is gone ──> the next take

A decoded minute of 640x360 takes 41 MB, and every sample needs it anew. Fresh memory comes from the operating system
page by page, which costs up to half of what decoding into it does.
"""

from __future__ import annotations

import bisect
import threading
import weakref
from collections import deque
from typing import Any

import numpy as np

_MOST_WASTE = 2  # a block may be this many times as large as what is asked for


class MemoryPool:
    """Blocks of memory, of which those that nobody uses are kept up to `keep_bytes`."""

    def __init__(self, keep_bytes: int) -> None:
        self._keep_bytes = keep_bytes
        self._lock = threading.Lock()
        self._returned: deque[np.ndarray] = deque()  # filled by finalizers, which may run inside any other line
        # Size, less the number of the return, block: what was used last, and may be in a cache, comes first.
        self._free: list[tuple[int, int, np.ndarray]] = []
        self._free_bytes = 0
        self._num_returns = 0

    def take(self, num_bytes: int) -> np.ndarray:
        """uint8[num_bytes] of any content, that comes back when nothing refers to it or to a view of it."""
        with self._lock:
            self._collect()
            place = bisect.bisect_left(self._free, (num_bytes,))
            if place < len(self._free) and self._free[place][0] <= _MOST_WASTE * num_bytes:
                size, _, block = self._free.pop(place)
                self._free_bytes -= size
            else:
                block = np.empty(_block_bytes(num_bytes), np.uint8)
        # A memoryview in between: numpy's views of `owner` then keep `owner` itself alive, not the block behind it.
        owner = np.frombuffer(block.data, np.uint8, num_bytes)
        weakref.finalize(owner, self._returned.append, block).atexit = False
        return owner

    def empty(self, shape: tuple[int, ...], dtype: Any = np.uint8) -> np.ndarray:
        """`np.empty` from the pool, for bytes."""
        assert dtype == np.uint8
        return self.take(int(np.prod(shape))).reshape(shape)

    @property
    def free_bytes(self) -> int:
        """Memory that is kept for later."""
        with self._lock:
            self._collect()
            return self._free_bytes

    def _collect(self) -> None:
        while self._returned:
            block = self._returned.popleft()
            self._num_returns += 1
            bisect.insort(self._free, (block.nbytes, -self._num_returns, block))
            self._free_bytes += block.nbytes
        while self._free_bytes > self._keep_bytes:
            oldest = max(range(len(self._free)), key=lambda place: self._free[place][1])
            self._free_bytes -= self._free.pop(oldest)[0]


def _block_bytes(num_bytes: int) -> int:
    """Rounded up, by a quarter at most: so that samples of nearly one size share blocks."""
    step = max(1, 1 << max(0, num_bytes.bit_length() - 3))
    return -(-num_bytes // step) * step
