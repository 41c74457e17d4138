"""Paths that come out of files of others, of listings of a store, of annotations, kept inside their folder.

    name from elsewhere ──inside(folder, name)──> folder / name, or ValueError

A name is taken literally, never resolved: what climbs ("..") is refused even where it would come back, so that nothing
depends on which links exist. Links inside the folder are its owner's, and are followed.
"""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath


def inside(folder: Path, name: str) -> Path:
    """The path that `name` has below `folder`. Nothing is looked up.

    Raises:
        ValueError: the name is absolute, climbs, or holds a NUL.
    """
    if is_inside(name):
        return folder / name
    raise ValueError(f"{name[:200]!r} would lead out of {folder}; a name must stay below the folder that it belongs to")


def is_inside(name: str) -> bool:
    """Whether a relative name stays below its folder."""
    return not (os.path.isabs(name) or "\0" in name or (".." in name and ".." in PurePosixPath(name).parts))
