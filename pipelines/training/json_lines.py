"""Files of one JSON object a line, appended by several processes at once and read while they grow.

A line is appended whole or not at all, as far as a program can see to it: what a full disk cut off is taken back, and
what a kill cut off is skipped by readers and closed by whoever writes next. Each line ends with a checksum of what
stands before it, so that a line that was changed later is skipped too, instead of being believed.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_CHECKED = re.compile(rb'(?:, )?"crc32": "([0-9a-f]{8})"\}$')


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one object.

    Raises:
        OSError: it could not be written, for example because the disk is full; the file is as it was.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = b"\n" * torn + _with_checksum(json.dumps(value).encode()) + b"\n"
        num_written = 0
        try:
            while num_written < len(line):
                num_written += os.write(descriptor, line[num_written:])
        except OSError as error:
            # Not where somebody else has written behind it: then it stays, as a torn line.
            if num_written and os.fstat(descriptor).st_size == size + num_written:
                os.ftruncate(descriptor, size)
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(descriptor)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Every whole object, oldest first; nothing where there is no file."""
    if path.exists():
        yield from parse_lines(path.read_bytes())


def parse_lines(content: bytes) -> Iterator[dict[str, Any]]:
    """The objects of those lines that can be read."""
    return (value for value in map(parse_line, content.splitlines()) if value is not None)


def parse_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line, None if it is torn or was changed. A line without a checksum is taken as it is."""
    checked = _CHECKED.search(line)
    if checked is not None:
        line = line[: checked.start()] + b"}"
        if zlib.crc32(line) != int(checked[1], 16):
            return None
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def count_damaged(path: Path) -> int:
    """How many lines can't be read: torn by a kill, or changed."""
    return sum(parse_line(line) is None for line in path.read_bytes().splitlines() if line) if path.exists() else 0


def _with_checksum(line: bytes) -> bytes:
    comma = b"" if line == b"{}" else b", "
    return b'%s%s"crc32": "%08x"}' % (line[:-1], comma, zlib.crc32(line))
