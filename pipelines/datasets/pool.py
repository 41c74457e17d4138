"""One function over many items in several processes; results come as they are ready.

The function and its items travel by pickle, so the function stands at module level. One item or one process needs no
child: the work is then done here.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Enough that no process waits for the next item, few enough that a hundred thousand items don't lie pickled in a queue.
_QUEUED_PER_PROCESS = 4


def in_processes(function: Callable[[Item], Result], items: Sequence[Item], num_processes: int) -> Iterator[Result]:
    """Results in the order they are finished. `num_processes` 0 means one per core.

    Raises:
        ValueError: `num_processes` is negative.
    """
    if num_processes < 0:
        raise ValueError(f"--jobs is {num_processes}; it must be 1 or more, or 0 for one process per core")
    num_processes = min(num_processes or os.cpu_count() or 1, len(items))
    if num_processes <= 1:
        yield from map(function, items)
        return
    waiting = iter(items)
    running: set[Future[Result]] = set()
    # Spawned, not forked: a forked child inherits locks that threads of S3 clients may hold.
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        try:
            for item in waiting:
                running.add(pool.submit(function, item))
                if len(running) < num_processes * _QUEUED_PER_PROCESS:
                    continue
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
            while running:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in done)
        finally:
            for future in running:
                future.cancel()
