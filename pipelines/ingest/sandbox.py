"""Runs native decoding in a child process, so that a crash or a hang costs one segment and never the job.

A Ray worker keeps one child and sends it one request at a time over a pipe; starting it costs 0.3 s once. While it
waits, the worker watches the clock and the child's memory, and ends the child with SIGKILL when either passes its
limit: a decoder that hangs in native code heeds nothing else. The child leaves by itself when its pipe closes, and,
should its worker be killed during a hang, when its own alarm rings.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from typing import Any

from pipelines.ingest.types import DecodeRequest, IngestError, ProbedVideo

LENGTH = struct.Struct("<Q")
_POLL_S = 0.5
_MESSAGE_CHARS = 300


class DecoderProcess:
    """A child process that probes and decodes. Not for use by several threads at once."""

    def __init__(self, *, max_rss_bytes: int) -> None:
        self._max_rss_bytes = max_rss_bytes
        self._child: subprocess.Popen[bytes] | None = None
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the object

    def probe(self, path: str, *, limit_s: float) -> ProbedVideo:
        """See `probe.probe_video`. Raises IngestError, also "decoder_timeout", "decoder_crash", "decoder_memory"."""
        result: ProbedVideo = self._call(("probe", path), limit_s)
        return result

    def decode(self, request: DecodeRequest, *, limit_s: float, sequentially: bool = False) -> list[bytes]:
        """See `decode.decode_segment` and `decode_sequentially`. Raises IngestError as `probe` does."""
        result: list[bytes] = self._call(("decode_sequentially" if sequentially else "decode", request), limit_s)
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

    def _call(self, request: tuple[str, Any], limit_s: float) -> Any:
        child = self._running_child()
        assert child.stdin is not None and child.stdout is not None
        payload = pickle.dumps((*request, limit_s))
        try:
            child.stdin.write(LENGTH.pack(len(payload)) + payload)
            child.stdin.flush()
            deadline = time.monotonic() + limit_s
            (length,) = LENGTH.unpack(self._read(child, LENGTH.size, deadline, limit_s))
            succeeded, result = pickle.loads(self._read(child, length, deadline, limit_s))
        except (BrokenPipeError, EOFError):
            raise self._death(child) from None
        except IngestError:
            self.close()
            raise
        if not succeeded:
            raise result
        return result

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            self._log.seek(0)
            self._log.truncate()
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
            self._child = subprocess.Popen(
                [sys.executable, "-m", "pipelines.ingest.sandbox_child"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env=environment,
            )
        return self._child

    def _read(self, child: subprocess.Popen[bytes], length: int, deadline: float, limit_s: float) -> bytes:
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
            if time.monotonic() > deadline:
                raise IngestError("decoder_timeout", f"the decoder gave no answer within {limit_s:.0f} s and was ended")
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


def _rss_bytes(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0  # not Linux, or the process has just ended
