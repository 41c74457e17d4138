"""Ids of samples, made from paths: `[a-z0-9_-]`, the same for the same relative path wherever and whenever.

An id that two paths would share gets a digest of its path behind it; the store (store.py) knows which ones do.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re

from pipelines.ingest.kinds import without_query
from vamba.data.sample import MAX_ID_CHARS

_DIGEST_CHARS = 8
_FOREIGN = re.compile(r"[^a-z0-9_]+")


def slug(relative: str) -> str:
    """The id that a path asks for, by its place below what named it."""
    stem = os.path.splitext(relative)[0].lower()
    name = _FOREIGN.sub("-", stem).strip("-")
    if not name:
        return f"video-{_digest(relative)}"
    if len(name) > MAX_ID_CHARS:
        return with_digest(name, relative)
    return name


def with_digest(name: str, path: str) -> str:
    """The id with a digest of a path behind it."""
    return f"{name[: MAX_ID_CHARS - _DIGEST_CHARS - 1]}-{_digest(path)}"


def relative_to(uri: str, root: str) -> str:
    """A path or URI as seen from a folder; what is elsewhere gives its whole path, with the bucket or host."""
    if uri.startswith(f"{root}/") and "?" not in uri:
        return uri[len(root) + 1 :]
    if "://" not in uri and "://" not in root:
        return os.path.relpath(uri, root)
    scheme, _, place = without_query(uri).rpartition("://")
    root_scheme, _, root_place = root.rpartition("://")
    if scheme != root_scheme:
        return place.lstrip("/")
    return posixpath.relpath(f"/{place}", f"/{root_place}")


def _digest(path: str) -> str:
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:_DIGEST_CHARS]
