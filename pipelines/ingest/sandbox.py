"""Runs native decoding in a child process, so that a crash or a hang costs one segment and never the job.

A Ray worker keeps one child and sends it one request at a time over a pipe; starting it costs 0.3 s once. While it
waits, the worker watches the clock and the child's memory, and ends the child with SIGKILL when either passes its
limit: a decoder that hangs in native code heeds nothing else. The child leaves by itself when its pipe closes or its
worker dies, and, where the kernel does not tell it of that, when its own alarm rings.

Bytes of remote objects are requested by the worker, of the one location that the request is about, and passed over the
pipe: the child needs no credentials and gets none. Time spent on that does not count against the limit.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from pipelines.ingest.config import Limits
from pipelines.ingest.ranges import MAX_RUN_BYTES
from pipelines.ingest.read_ahead import ReadAhead
from pipelines.ingest.remote import Ranges
from pipelines.ingest.types import DecodeRequest, IngestError, Location, ProbedImage, ProbedVideo
from pipelines.ingest.wire import LENGTH, answer_from, framed

_POLL_S = 0.5
_KEPT_VARIABLES = {"PATH", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONUTF8", "VIRTUAL_ENV"}
_MESSAGE_CHARS = 300


class DecoderProcess:
    """A child process that probes and decodes. Not for use by several threads at once."""

    def __init__(self, *, max_rss_bytes: int, ranges: Ranges | None = None) -> None:
        self._max_rss_bytes = max_rss_bytes
        self._ranges = ranges or ReadAhead()
        self._child: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object

    def probe(self, location: Location, limits: Limits, *, limit_s: float, keep_damaged: bool = False) -> ProbedVideo:
        """See `probe.probe_video`. Raises IngestError, also "decoder_timeout", "decoder_crash", "decoder_memory"."""
        result: ProbedVideo = self._call(
            "probe_damaged" if keep_damaged else "probe", (location, limits), location, limit_s
        )
        return result

    def probe_image(self, location: Location, max_pixels: int, *, limit_s: float) -> ProbedImage:
        """See `images.probe_image`. Raises IngestError as `probe` does."""
        result: ProbedImage = self._call("probe_image", (location, max_pixels), location, limit_s)
        return result

    def decode(self, request: DecodeRequest, *, limit_s: float, sequentially: bool = False) -> list[bytes]:
        """See `decode.decode_segment` and `decode_sequentially`. Raises IngestError as `probe` does."""
        handler = "decode_sequentially" if sequentially else "decode"
        result: list[bytes] = self._call(handler, (request,), request.location, limit_s)
        return result

    def salvage(self, request: DecodeRequest, *, limit_s: float) -> list[bytes | None]:
        """See `salvage.salvage_segment`. Raises IngestError as `probe` does."""
        result: list[bytes | None] = self._call("salvage", (request,), request.location, limit_s)
        return result

    def decode_counted(self, request: DecodeRequest, *, limit_s: float) -> list[bytes]:
        """See `counted.decode_counted`. Raises IngestError as `probe` does."""
        result: list[bytes] = self._call("decode_counted", (request,), request.location, limit_s)
        return result

    def decode_image(self, request: DecodeRequest, *, limit_s: float) -> list[bytes]:
        """See `images.decode_image`. Raises IngestError as `probe` does."""
        result: list[bytes] = self._call("decode_image", (request,), request.location, limit_s)
        return result

    def close(self) -> None:
        """Ends the child."""
        child, self._child = self._child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _call(self, handler: str, arguments: tuple[Any, ...], location: Location, limit_s: float) -> Any:
        child = self._running_child()
        watch = _Watch(limit_s)
        try:
            self._send(child, (handler, arguments, limit_s))
            while True:
                kind, *values = self._receive(child, watch)
                if kind not in ("size", "read"):
                    break
                with watch.paused():
                    self._send(child, self._ranged(location, kind, values))
        except (BrokenPipeError, EOFError):
            raise self._death(child) from None
        except pickle.UnpicklingError as error:
            self.close()
            raise IngestError("decoder_crash", f"the decoder process gave no proper answer: {error}") from error
        except IngestError:
            self.close()
            raise
        if kind == "error":
            raise values[0]
        return values[0]

    def _ranged(self, location: Location, kind: str, values: list[Any]) -> tuple[bool, Any]:
        """What the child asks of a remote object; it may ask of this one only."""
        try:
            if kind == "size":
                return True, self._ranges.size(location.uri)
            offset, length = values
            end = sys.maxsize if location.length_bytes is None else location.offset_bytes + location.length_bytes
            if not (location.offset_bytes <= offset and 0 < length <= MAX_RUN_BYTES and offset + length <= end):
                raise IngestError("decoder_crash", f"it asked for {length} bytes at {offset}, outside its source")
            return True, self._ranges.read(location.uri, offset, length)
        except IngestError as error:
            return False, error

    def _send(self, child: subprocess.Popen[bytes], value: Any) -> None:
        assert child.stdin is not None
        child.stdin.write(framed(value))
        child.stdin.flush()

    def _receive(self, child: subprocess.Popen[bytes], watch: _Watch) -> Any:
        (length,) = LENGTH.unpack(self._read(child, LENGTH.size, watch))
        return answer_from(self._read(child, length, watch))

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._log.seek(0)
            self._log.truncate()
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipelines.ingest.sandbox_child", str(self._max_rss_bytes)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=_environment(),
            )
        return self._child

    def _read(self, child: subprocess.Popen[bytes], length: int, watch: _Watch) -> bytes:
        assert child.stdout is not None
        descriptor = child.stdout.fileno()
        data = bytearray()
        while len(data) < length:
            ready, _, _ = select.select([descriptor], [], [], _POLL_S)
            if ready:
                part = os.read(descriptor, min(length - len(data), 1 << 20))
                if not part:
                    raise EOFError
                data += part
                continue
            if watch.is_over():
                raise IngestError(
                    "decoder_timeout", f"the decoder gave no answer within {watch.limit_s:.0f} s and was ended"
                )
            rss_bytes = _rss_bytes(child.pid)
            if rss_bytes > self._max_rss_bytes:
                used, limit = rss_bytes // 1024**2, self._max_rss_bytes // 1024**2
                raise IngestError("decoder_memory", f"the decoder used {used} MiB, over its limit of {limit} MiB")
        return bytes(data)

    def _death(self, child: subprocess.Popen[bytes]) -> IngestError:
        code = child.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        self._log.seek(0)
        last_words = self._log.read().decode(errors="replace").strip()[-_MESSAGE_CHARS:]
        self.close()
        return IngestError(
            "decoder_crash", f"the decoder process ended {how}" + (f": {last_words}" if last_words else "")
        )


def _environment() -> dict[str, str]:
    """What the child needs to run, and nothing that may be a secret."""
    kept = {name: value for name, value in os.environ.items() if name in _KEPT_VARIABLES or name.startswith("LC_")}
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}


class _Watch:
    """The time that a request may still take."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._deadline_s = time.monotonic() + limit_s

    def is_over(self) -> bool:
        return time.monotonic() > self._deadline_s

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """What happens inside does not count."""
        started_s = time.monotonic()
        yield
        self._deadline_s += time.monotonic() - started_s


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0  # not Linux, or the process has just ended
