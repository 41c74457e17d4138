"""What a name says about a file: a video, an image, a listing, a tar of samples, or nothing that is ingested."""

from __future__ import annotations

import posixpath
import re

from vamba.data.sample import Media

VIDEO_SUFFIXES = frozenset(
    (".3g2", ".3gp", ".asf", ".avi", ".divx", ".f4v", ".flv", ".m2t", ".m2ts", ".m2v", ".m4v", ".mjpeg", ".mjpg")
    + (".mkv", ".mov", ".mp4", ".mpe", ".mpeg", ".mpg", ".mts", ".mxf", ".ogm", ".ogv", ".qt", ".rm", ".rmvb", ".ts")
    + (".vob", ".webm", ".wmv", ".y4m")
)
IMAGE_SUFFIXES = frozenset((".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
LISTING_SUFFIXES = frozenset((".jsonl", ".json", ".csv", ".parquet"))
TAR_SUFFIX = ".tar"
PACKED_TAR_SUFFIXES = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")  # no member can be read by its range

_GLOB = re.compile(r"[*?\[]")


def suffix_of(name: str) -> str:
    """The ending of a path or URI, in lower case, with its dot."""
    return posixpath.splitext(without_query(name))[1].lower()


def without_query(name: str) -> str:
    """A path or URI as it names a file: what http has behind a question mark left out."""
    return name.partition("?")[0] if name.startswith(("http://", "https://")) else name


def media_of(name: str) -> Media | None:
    """What a path, URI or member name holds by its ending; None if the ending says nothing."""
    suffix = suffix_of(name)
    if suffix in VIDEO_SUFFIXES:
        return "video"
    return "image" if suffix in IMAGE_SUFFIXES else None


def is_pattern(name: str) -> bool:
    """Whether a path or URI is a glob."""
    return _GLOB.search(name) is not None
