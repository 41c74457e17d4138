"""Reads a file of JSON lines as it grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipelines.training.json_lines import parse_lines


class LineFollower:
    """Gives each whole line of one file once; one that a kill cut off, or that was changed, is skipped."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def read_new(self) -> Iterator[dict[str, Any]]:
        """What was appended since the last call; nothing while there is no file."""
        if not self._path.exists() or self._path.stat().st_size == self._offset:
            return
        with self._path.open("rb") as file:
            file.seek(self._offset)
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._offset += len(whole)
        yield from parse_lines(whole)
