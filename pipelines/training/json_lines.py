"""Files of one JSON object a line, appended by several processes at once and read while they grow.

A line is appended whole or not at all, as far as a program can see to it: what a full disk cut off is taken back, and
what a kill cut off is skipped by readers and closed by whoever writes next.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any


def append_line(path: Path, value: Mapping[str, Any]) -> None:
    """Append one object.

    Raises:
        OSError: it could not be written, for example because the disk is full; the file is as it was.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        size = os.fstat(descriptor).st_size
        torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        line = (("\n" if torn else "") + json.dumps(value) + "\n").encode()
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
    if not path.exists():
        return
    for line in path.read_text(errors="replace").splitlines():
        try:
            value = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value
