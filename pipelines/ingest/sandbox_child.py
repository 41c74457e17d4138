"""The child of sandbox.py: reads requests from its worker, answers them, ends when the pipe closes or the worker dies.

What both say to each other is in wire.py; while a request is served, the child may ask for bytes of the remote object
that it is about. Everything else that libraries print goes to stderr, so that it cannot mix with the answers. Imports
av, numpy and simplejpeg, and Pillow with the first image; nothing heavier.
"""

from __future__ import annotations

import os
import pickle
import pkgutil
import signal
import sys
from typing import Any, BinaryIO

from pipelines.child_processes import end_with_parent
from pipelines.ingest import opening
from pipelines.ingest.confinement import confine, limit_time
from pipelines.ingest.types import IngestError
from pipelines.ingest.wire import LENGTH, framed

ALARM_MARGIN_S = 2.0  # the worker, if it lives, is faster

_HANDLERS = {
    "probe": "pipelines.ingest.probe.probe_video",
    "probe_damaged": "pipelines.ingest.probe.probe_damaged_video",
    "decode": "pipelines.ingest.decode.decode_segment",
    "decode_sequentially": "pipelines.ingest.decode.decode_sequentially",
    "decode_counted": "pipelines.ingest.counted.decode_counted",
    "salvage": "pipelines.ingest.salvage.salvage_segment",
    "probe_image": "pipelines.ingest.images.probe_image",
    "decode_image": "pipelines.ingest.images.decode_image",
}


def main() -> None:
    """Serves requests until the worker is gone."""
    end_with_parent()
    confine(max_rss_bytes=int(sys.argv[1]) if len(sys.argv) > 1 else None)
    worker = _Worker()
    opening.use_ranges(worker)
    while (request := worker.receive()) is not None:
        handler, arguments, limit_s = request
        limit_time(limit_s + ALARM_MARGIN_S)
        answer = _answer(handler, arguments)
        limit_time(0)
        worker.send(answer)


def _answer(handler: str, arguments: tuple[Any, ...]) -> tuple[str, Any]:
    try:
        return "answer", pkgutil.resolve_name(_HANDLERS[handler])(*arguments)
    except IngestError as error:
        return "error", error
    except MemoryError:
        return "error", IngestError(
            "decoder_memory", "the decoder needed more memory than watchdog.max_rss_bytes allows"
        )
    except Exception as error:  # a file that surprises a library must not look like a crash of the process
        return "error", IngestError("corrupt", f"{type(error).__name__}: {error}")


class _Worker:
    """The other end of the pipes, also as the place where bytes of remote objects come from (`opening.Ranges`)."""

    def __init__(self) -> None:
        self._requests: BinaryIO = os.fdopen(os.dup(sys.stdin.fileno()), "rb")
        self._answers: BinaryIO = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
        # Nothing that a library reads or prints may touch the pipes.
        with open(os.devnull, "rb") as nothing:
            os.dup2(nothing.fileno(), sys.stdin.fileno())
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def receive(self) -> Any:
        """The next message; None when there are no more."""
        header = self._requests.read(LENGTH.size)
        return pickle.loads(self._requests.read(LENGTH.unpack(header)[0])) if header else None

    def send(self, message: Any) -> None:
        self._answers.write(framed(message))
        self._answers.flush()

    def size(self, uri: str) -> int:
        """See `remote.Ranges`."""
        return int(self._ask("size"))

    def read(self, uri: str, offset: int, length: int) -> bytes:
        """See `remote.Ranges`."""
        return bytes(self._ask("read", offset, length))

    def _ask(self, *question: Any) -> Any:
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)  # the time that the network takes does not count
        self.send(question)
        reply = self.receive()
        if reply is None:
            os._exit(1)  # the worker is gone; an exception would have to pass through ffmpeg
        signal.setitimer(signal.ITIMER_REAL, left_s)
        succeeded, value = reply
        if not succeeded:
            raise value
        return value


if __name__ == "__main__":
    main()
