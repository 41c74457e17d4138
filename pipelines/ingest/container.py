"""The one place where an ingest opens a media container."""

from __future__ import annotations

from typing import Any

import av

# The demuxer makes up missing pts (AVI with B-frames) by looking ahead.
_OPTIONS = {"fflags": "+genpts"}


def open_container(uri: str) -> Any:
    """An open av container over the bytes at `uri`, to be used as a context manager.

    Raises:
        OSError, av.error.FFmpegError: it cannot be read, or is no container that ffmpeg knows.
    """
    return av.open(uri, options=_OPTIONS, metadata_errors="replace")
