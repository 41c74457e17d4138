"""The child of sandbox.py: reads requests from stdin, answers on stdout, ends when stdin closes.

An answer is `(True, result)` or `(False, IngestError)`. Everything else that libraries print goes to stderr, so that it
cannot mix with the answers. Imports av, numpy and simplejpeg, nothing heavier.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
from typing import Any, BinaryIO

from pipelines.ingest import decode, probe
from pipelines.ingest.sandbox import LENGTH
from pipelines.ingest.types import IngestError

ALARM_MARGIN_S = 2.0  # the worker, if it lives, is faster

_HANDLERS: dict[str, Any] = {
    "probe": probe.probe_video,
    "decode": decode.decode_segment,
    "decode_sequentially": decode.decode_sequentially,
}


def main() -> None:
    """Serves requests until stdin ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    requests = sys.stdin.buffer
    while header := requests.read(LENGTH.size):
        kind, argument, limit_s = pickle.loads(requests.read(LENGTH.unpack(header)[0]))
        # With no handler set, the kernel ends this process, whatever native code is doing.
        signal.setitimer(signal.ITIMER_REAL, limit_s + ALARM_MARGIN_S)
        _answer(answers, kind, argument)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _answer(answers: BinaryIO, kind: str, argument: Any) -> None:
    try:
        answer = (True, _HANDLERS[kind](argument))
    except IngestError as error:
        answer = (False, error)
    except Exception as error:  # a file that surprises a library must not look like a crash of the process
        answer = (False, IngestError("corrupt", f"{type(error).__name__}: {error}"))
    payload = pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL)
    answers.write(LENGTH.pack(len(payload)))
    answers.write(payload)
    answers.flush()


if __name__ == "__main__":
    main()
