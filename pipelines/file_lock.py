"""Locks on open files, held by one process at a time and let go of with it, however it ends."""

from __future__ import annotations

import fcntl
import time
from typing import IO

_POLL_S = 0.1


def try_lock(file: IO[str]) -> bool:
    """Whether the file is this process's now; it is until it is closed."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def wait_for_lock(file: IO[str], timeout_s: float) -> bool:
    """The same, after at most `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not try_lock(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)
    return True
