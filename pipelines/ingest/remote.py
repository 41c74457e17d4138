"""Reads ranges of remote objects (`s3://` and what else `pipelines.filesystems` knows), with retries.

    worker:  RemoteRanges ──filesystem_of(uri)──> ranged requests
    decoder: asks its worker over the pipe (see sandbox.py), so that it needs neither network nor credentials

An object is opened once for as long as its ranges are asked for one after the other: the opening costs a request.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from pipelines.ingest.types import IngestError
from pipelines.redaction import redacted, redacted_text

_MAX_ATTEMPTS = 5
_FIRST_PAUSE_S = 0.25  # doubled after each attempt: four pauses of 4 s in all
# What an error says beside the address, which may hold any of these words: a status as an attribute (HTTP clients), or
# in the text, and the error names of S3.
_STATUS = re.compile(r"(?:response|status)(?: code)?\W{1,3}(\d{3})\b")
_AWS_ERROR = re.compile(r"aws error (\w+) during")
_MISSING = {"404", "410", "no_such_key", "no_such_bucket", "resource_not_found"}
_DENIED = {"401", "403", "access_denied", "invalid_access_key_id", "signature_does_not_match"}
_T = TypeVar("_T")


class Ranges(Protocol):
    """Where the bytes of remote objects come from."""

    def size(self, uri: str) -> int:
        """Bytes of the object."""

    def read(self, uri: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`."""


class RemoteRanges:
    """Requests ranges from the store itself.

    Both methods raise IngestError: "not_found", "permission_denied", "unreachable" or "unsupported" (unknown scheme).
    """

    def __init__(self, pause: Callable[[float], None] = time.sleep) -> None:
        self._pause = pause
        self._uri: str | None = None
        self._file: Any = None

    def size(self, uri: str) -> int:
        """See `Ranges`."""
        return self._with_retries(uri, lambda: int(self._opened(uri).size))

    def read(self, uri: str, offset: int, length: int) -> bytes:
        """See `Ranges`."""
        return self._with_retries(uri, lambda: self._read(uri, offset, length))

    def _read(self, uri: str, offset: int, length: int) -> bytes:
        file = self._opened(uri)
        file.seek(offset)
        data = bytes(file.read(length))
        if len(data) != length:
            raise OSError(f"{len(data)} of {length} bytes came: the connection broke, or the object is shorter now")
        return data

    def _opened(self, uri: str) -> Any:
        if self._uri != uri:
            from pipelines.filesystems import filesystem_of

            self._close()
            try:
                filesystem, path = filesystem_of(uri)
            except ValueError as error:
                raise IngestError("unsupported", str(error)) from error
            # Blocks are kept by RangeFile; fsspec's own read-ahead would fetch them twice.
            self._file = filesystem.open(path, "rb", cache_type="none")
            self._uri = uri
        return self._file

    def _close(self) -> None:
        file, self._file, self._uri = self._file, None, None
        if file is not None:
            file.close()

    def _with_retries(self, uri: str, request: Callable[[], _T]) -> _T:
        for attempt in range(_MAX_ATTEMPTS):
            try:
                return request()
            except IngestError:
                raise
            except Exception as error:  # every client library has errors of its own
                self._close()
                error_class = _error_class(error)
                if error_class != "unreachable" or attempt == _MAX_ATTEMPTS - 1:
                    raise IngestError(error_class, _message(error_class, uri, error)) from error
                self._pause(_FIRST_PAUSE_S * 2**attempt * random.uniform(0.75, 1.25))
        raise AssertionError


def _error_class(error: Exception) -> str:
    text = str(error).lower()
    said = {str(getattr(error, "status", "")), *_STATUS.findall(text), *_AWS_ERROR.findall(text)}
    if isinstance(error, FileNotFoundError) or said & _MISSING:
        return "not_found"
    if isinstance(error, PermissionError) or said & _DENIED:
        return "permission_denied"
    return "unreachable"


def _message(error_class: str, uri: str, error: Exception) -> str:
    place = redacted(uri)
    if error_class == "not_found":
        return f"there is no object at {place}"
    if error_class == "permission_denied":
        return f"{place} may not be read with these credentials"
    reason = redacted_text(str(error).partition("\n")[0].replace(uri, place))
    return f"{place} could not be read in {_MAX_ATTEMPTS} attempts: {reason}"
