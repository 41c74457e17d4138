"""How far an ingest is, for a person: a line that renews itself on a terminal, else a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Protocol, TextIO

_TERMINAL_INTERVAL_S = 0.2
_PLAIN_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestStatus:
    """A moment of an ingest."""

    stage: str  # "list", "probe", "decode"
    videos_done: int
    num_videos: int | None  # None: not known yet
    media_s: float  # seconds of media done in this stage
    num_failed: int
    elapsed_s: float  # of this stage


class Progress(Protocol):
    """What `run_ingest` tells about its work."""

    def note(self, text: str) -> None:
        """A sentence about something that happened once."""

    def update(self, status: IngestStatus) -> None:
        """Where the job is; may be called often."""


class Silent:
    """Tells nothing."""

    def note(self, text: str) -> None:
        """Does nothing."""

    def update(self, status: IngestStatus) -> None:
        """Does nothing."""


class TextProgress:
    """Writes to a text stream, stderr by default."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last_s = 0.0
        self._line_is_open = False

    def note(self, text: str) -> None:
        """A line of its own."""
        if self._line_is_open:
            self._stream.write("\n")
            self._line_is_open = False
        self._stream.write(text + "\n")
        self._stream.flush()

    def update(self, status: IngestStatus) -> None:
        """Renews the line, or adds one, but not too often; the last of a stage always shows."""
        now_s = time.monotonic()
        interval_s = _TERMINAL_INTERVAL_S if self._is_terminal else _PLAIN_INTERVAL_S
        is_last = status.videos_done == status.num_videos
        if now_s - self._last_s < interval_s and not is_last:
            return
        self._last_s = now_s
        if self._is_terminal:
            self._stream.write("\r\x1b[K" + status_line(status) + ("\n" if is_last else ""))
            self._line_is_open = not is_last
        else:
            self._stream.write(status_line(status) + "\n")
        self._stream.flush()


def status_line(status: IngestStatus) -> str:
    """One line: stage, videos, hours of media, speed against real time, failures."""
    if status.num_videos is None:
        return f"{status.stage}: {status.videos_done:,} videos and images so far"
    speed = status.media_s / status.elapsed_s if status.elapsed_s > 0 else 0.0
    failed = f", {status.num_failed} failed" if status.num_failed else ""
    return (
        f"{status.stage}: {status.videos_done}/{status.num_videos} videos{failed}, "
        f"{status.media_s / 3600:.2f} h of media, {speed:,.0f}x real time"
    )
