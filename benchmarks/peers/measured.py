"""What every peer's script shares: its time and CPU, and which frame of the film each picture is.

Runs in the peers' own environments: nothing but the standard library, numpy and psutil. A script is called with the
film's path and prints one line of JSON: CPU seconds of its process tree, wall seconds, and the numbers of the frames
that it took for 0 s, 1 s, 2 s, …, read off the picture: `film.py` paints each frame's number into it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import psutil

BOX = 20  # pixels; a white box is a one
NUM_BITS = 14


def number_of(rgb_HW3: Any) -> int:
    """The number painted into a frame."""
    row = np.asarray(rgb_HW3)[BOX // 2, BOX // 2 : BOX * NUM_BITS : BOX].astype(int).mean(axis=-1)
    return sum(int(bright > 128) << bit for bit, bright in enumerate(row))


def tree_cpu_s() -> float:
    """CPU seconds of this process, of those that it started, and of those that they have waited for."""
    total = 0.0
    me = psutil.Process()
    for process in [me, *me.children(recursive=True)]:
        try:
            total += sum(process.cpu_times()[:4])
        except psutil.NoSuchProcess:
            continue
    return total


def report(work: Callable[[], Any], numbers: Callable[[Any], Sequence[int]]) -> None:
    """Does the work, then reads the numbers off its result, which is not counted."""
    cpu_s, started_s = tree_cpu_s(), time.monotonic()
    result = work()
    wall_s, cpu_s = time.monotonic() - started_s, tree_cpu_s() - cpu_s
    found = [int(number) for number in numbers(result)]
    print(json.dumps({"cpu_s": cpu_s, "wall_s": wall_s, "numbers": found}), flush=True)
