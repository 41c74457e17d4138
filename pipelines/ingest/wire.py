"""What a worker and its decoder process say to each other: pickled values, each behind its length.

    worker ──(handler, arguments, limit_s)─────────────────────────> decoder
    worker <──("size",) or ("read", offset, length)── decoder, as often as it needs bytes of a remote object
    worker ──(True, value) or (False, IngestError)─> decoder
    worker <──("answer", result) or ("error", IngestError)────────── decoder

The decoder runs native code over files of strangers, so the worker unpickles only the few types that an answer is made
of: a decoder that was taken over cannot make the worker run code.
"""

from __future__ import annotations

import io
import pickle
import struct
from typing import Any

LENGTH = struct.Struct("<Q")
_ANSWER_TYPES = {
    ("pipelines.ingest.types", "IngestError"),
    ("pipelines.ingest.types", "ProbedVideo"),
    ("pipelines.ingest.types", "ProbedImage"),
    ("fractions", "Fraction"),
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.numeric", "_frombuffer"),
    ("numpy._core.multiarray", "_reconstruct"),
}


def framed(value: Any) -> bytes:
    """The value as it goes over the pipe."""
    payload = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    return LENGTH.pack(len(payload)) + payload


class _AnswerUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ANSWER_TYPES:
            raise pickle.UnpicklingError(f"an answer of the decoder names {module}.{name}")
        return super().find_class(module, name)


def answer_from(payload: bytes) -> Any:
    """Unpickles what a decoder sent.

    Raises:
        pickle.UnpicklingError: it is not made of the types of an answer.
    """
    return _AnswerUnpickler(io.BytesIO(payload)).load()
