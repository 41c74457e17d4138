"""Where a benchmark's videos lie: downloads differ in folders and endings, so several are tried."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.evaluation.benchmarks.rows import AnnotationError
from pipelines.ingest.kinds import media_of
from pipelines.inside import is_inside

_ENDINGS = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".flv", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv")
_MOST_BYTES = 250 - max(map(len, _ENDINGS))
"""Of a file's name before its ending."""
_TRIED = (*_ENDINGS, *(ending.upper() for ending in _ENDINGS[:5]))


def check_name(name: str) -> None:
    """Raises AnnotationError for a name that leads out of its folder, or that no file can have."""
    if not is_inside(name):
        raise AnnotationError(f"The annotations name the video {name[:200]!r}, which would lie outside of its folder.")
    if any(len(part.encode(errors="replace")) > _MOST_BYTES for part in name.split("/")):
        raise AnnotationError(
            f"The annotations name the video {name[:60]!r}…, which is too long for the name of a file."
        )


def find_video(folders: Iterable[Path], name: str) -> Path:
    """The video `name`, with or without ending, in the first folder that has it.

    A missing one comes back as the path where it was looked for first: the evaluation lists it. Raises AnnotationError
    for a name that leads out of the folders, or is none.
    """
    check_name(name)
    has_ending = media_of(name) == "video"
    stem = Path(name).with_suffix("") if has_ending else Path(name)
    endings = [f"{stem}{ending}" for ending in _TRIED]
    names = [name, *endings] if has_ending else [*endings, name]
    candidates = [folder / candidate for folder in folders for candidate in names]
    return next((path for path in candidates if path.is_file()), candidates[0])
