"""Video files of strangers for `vamba ask` and benchmarks, read where nothing of this process can be reached.

    probe, single segments ──> one decoder process, kept (pipelines/ingest/sandbox.py)
    many segments          ──> a pool of processes, each confined by `prepare` before its first

A benchmark is a download of some thousand files, and this process holds a model and the user's credentials.
"""

from __future__ import annotations

import atexit
import functools
import threading
from typing import TYPE_CHECKING

from pipelines.child_processes import end_with_parent
from pipelines.ingest.config import Limits, Watchdog

if TYPE_CHECKING:
    from pipelines.ingest.sandbox import DecoderProcess
    from pipelines.ingest.types import DecodeRequest, Location, ProbedVideo

_WATCHDOG = Watchdog()
_SEGMENT_LIMIT_S = 600.0
"""A segment is planned to cost a second or two; the slow way decodes all that comes before it."""
_lock = threading.Lock()


def probe(location: Location) -> ProbedVideo:
    """See `probe.probe_video`. Raises IngestError, also "decoder_timeout", "decoder_crash", "decoder_memory"."""
    with _lock:
        return _decoder().probe(location, Limits(), limit_s=_SEGMENT_LIMIT_S)


def decode(request: DecodeRequest) -> list[bytes]:
    """The JPEG files of one segment, the slow way where the fast one fails. Raises IngestError as `probe` does."""
    from pipelines.ingest.types import IngestError

    with _lock:
        try:
            return _decoder().decode(request, limit_s=_SEGMENT_LIMIT_S)
        except IngestError:
            return _decoder().decode(request, limit_s=_SEGMENT_LIMIT_S, sequentially=True)


def prepare() -> None:
    """Confines a process of a pool, and ends it with this one."""
    from pipelines.ingest.confinement import confine

    end_with_parent()
    confine(_WATCHDOG.max_rss_bytes)


def decode_here(request: DecodeRequest) -> list[bytes]:
    """`decode`, within a process that `prepare` has confined. It ends where it takes too long."""
    from pipelines.ingest.confinement import limit_time
    from pipelines.ingest.decode import decode_segment, decode_sequentially
    from pipelines.ingest.types import IngestError

    limit_time(_SEGMENT_LIMIT_S)
    try:
        return decode_segment(request)
    except IngestError:
        return decode_sequentially(request)
    except MemoryError:
        limit = f"{_WATCHDOG.max_rss_bytes // 1024**2} MiB"
        raise IngestError("decoder_memory", f"the decoder needed more memory than {limit}") from None
    finally:
        limit_time(0)


@functools.cache
def _decoder() -> DecoderProcess:
    from pipelines.ingest.sandbox import DecoderProcess

    decoder = DecoderProcess(max_rss_bytes=_WATCHDOG.max_rss_bytes)
    atexit.register(decoder.close)
    return decoder
