"""What is taken from a process before it decodes the file of a stranger: memory, time, disk, network, other programs.

once:         confine(max_rss_bytes)     memory, core dumps, large files, sockets and exec
each request: limit_time(seconds)        wall and CPU time; the kernel ends the process, even within native code
"""

from __future__ import annotations

import math
import resource
import signal
import time

from pipelines.ingest.no_network import forbid_network

_MAX_FILE_BYTES = 1 << 20  # the only file that a decoder may write is the one that its stderr goes to
_MEMORY_MARGIN_BYTES = 1 << 30  # reserved by libraries and never used


def confine(max_rss_bytes: int | None = None) -> None:
    """Takes from this process, for good, what decoding does not need. None: no limit of its memory."""
    if max_rss_bytes is not None:  # faster than whoever watches it from outside now and then
        limit_bytes = max_rss_bytes + _MEMORY_MARGIN_BYTES
        resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing on fails instead
    resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE_BYTES, _MAX_FILE_BYTES))
    forbid_network()


def limit_time(seconds: float) -> None:
    """Ends this process when so much wall or CPU time has passed from now. 0: the wall clock no longer counts."""
    # With no handler set, the kernel ends this process.
    signal.setitimer(signal.ITIMER_REAL, seconds)
    if seconds:
        cpu_s = math.ceil(time.process_time() + seconds)
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, resource.RLIM_INFINITY))
