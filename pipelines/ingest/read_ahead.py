"""Requests the next range of a remote object while the decoder works on the last one.

    decoder ──read(offset, length)──> ReadAhead ──> RemoteRanges
                                          └──the next run, in a thread of its own──> RemoteRanges

RangeCache asks for runs of doubling length as long as its reader goes on, so a long run says that it scans and which
run it wants next. What nobody comes for is dropped: one run for each scan that ends.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from pipelines.ingest import ranges
from pipelines.ingest.remote import Ranges, RemoteRanges
from pipelines.ingest.types import IngestError

_SCANS_FROM_BYTES = 1024**2  # a jump to one GOP makes shorter runs


@dataclass(frozen=True, slots=True)
class _Pending:
    uri: str
    offset: int
    length: int
    data: Future[bytes]


class ReadAhead:
    """`Ranges` that are often there already. Holds at most two runs."""

    def __init__(self, now: Ranges | None = None, later: Ranges | None = None) -> None:
        self._now: Ranges = now or RemoteRanges()
        self._later: Ranges = later or RemoteRanges()  # its connection is used by the other thread only
        self._thread: ThreadPoolExecutor | None = None
        self._pending: _Pending | None = None

    def size(self, uri: str) -> int:
        """See `remote.Ranges`."""
        return self._now.size(uri)

    def read(self, uri: str, offset: int, length: int) -> bytes:
        """See `remote.Ranges`."""
        data = self._fetched(uri, offset, length)
        if data is None:
            data = self._now.read(uri, offset, length)
        if length >= _SCANS_FROM_BYTES:
            end = offset + length
            self._begin(uri, end, min(2 * length, ranges.MAX_RUN_BYTES, self._now.size(uri) - end))
        return data

    def _fetched(self, uri: str, offset: int, length: int) -> bytes | None:
        pending = self._pending
        if pending is None or (pending.uri, pending.offset) != (uri, offset) or length > pending.length:
            return None
        self._pending = None
        try:
            return pending.data.result()[:length]
        except IngestError:
            return None  # the request that follows says what is wrong, if it still is

    def _begin(self, uri: str, offset: int, length: int) -> None:
        if length <= 0 or (self._pending is not None and not self._pending.data.done()):
            return
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending = _Pending(uri, offset, length, self._thread.submit(self._later.read, uri, offset, length))
