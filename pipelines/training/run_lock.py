"""Only one group of workers trains a run. The lock dies with its process, so a killed group blocks nobody."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from pipelines.training.run_directory import RunDirectory

LOCK_TIMEOUT_S = 60.0


@contextmanager
def exclusive(directory: RunDirectory, rank: int = 0, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the run, on its first rank.

    Raises:
        RuntimeError: another process still holds it after `timeout_s` seconds.
    """
    if rank != 0:
        yield
        return
    with (directory.root / "lock").open("w") as file:
        deadline = time.monotonic() + timeout_s
        while not _locked(file):
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"Run {directory.name!r} is being trained by another job: stop that, or choose another name."
                )
            time.sleep(0.1)
        yield


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
