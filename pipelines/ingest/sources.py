"""Finds what to ingest: files, folders, globs and listings become `VideoSource`s with ids and conversations.

An id comes from the path relative to the folder (or glob root, or listing) that named it, in `[a-z0-9_-]`; paths that
would share one get a digest of the path behind it. Nothing is opened here but listings: whether a file is a video is
the probe's business. The forms of listings are in listings.py.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path

from pipelines.ingest.listings import LISTING_SUFFIXES, ListingRow, listing_rows
from pipelines.ingest.types import VideoSource
from vamba.data.sample import MAX_ID_CHARS, Conversation

VIDEO_SUFFIXES = frozenset(
    [
        ".3g2",
        ".3gp",
        ".asf",
        ".avi",
        ".divx",
        ".f4v",
        ".flv",
        ".m2t",
        ".m2ts",
        ".m2v",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpe",
        ".mpeg",
        ".mpg",
        ".mts",
        ".mxf",
        ".ogm",
        ".ogv",
        ".qt",
        ".rm",
        ".rmvb",
        ".ts",
        ".vob",
        ".webm",
        ".wmv",
        ".y4m",
    ]
)
_DIGEST_CHARS = 8
_GLOB = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceList:
    """What was found."""

    videos: tuple[VideoSource, ...]  # ordered by id
    num_ignored_files: int  # in folders, of other kinds
    unmatched: tuple[str, ...]  # videos that --conversations names and no source has


@dataclass(slots=True)
class _Found:
    """A video while it is being collected from several places."""

    path: str  # absolute
    relative: str  # what its id is made from
    splits: set[str] = field(default_factory=set)
    conversations: list[Conversation] = field(default_factory=list)


def find_sources(sources: Iterable[str], conversations: str | None = None) -> SourceList:
    """Resolves the user's SOURCE arguments.

    Raises:
        ValueError: a source does not exist or holds no video, a listing is malformed, or a video has two splits.
    """
    found: dict[str, _Found] = {}
    num_ignored = 0
    for source in sources:
        num_ignored += _add_source(source, found)
    unmatched = []
    if conversations is not None:
        for row in listing_rows(Path(conversations)):
            if row.path in found:
                _add_row(found[row.path], row)
            else:
                unmatched.append(row.path)
    for item in found.values():
        if len(item.splits) > 1:
            raise ValueError(
                f"the listing puts {item.path} into two splits: {', '.join(sorted(item.splits))}; keep one"
            )
    videos = _with_ids(list(found.values()))
    return SourceList(videos=videos, num_ignored_files=num_ignored, unmatched=tuple(dict.fromkeys(unmatched)))


def _add_source(source: str, found: dict[str, _Found]) -> int:
    """Adds the videos of one SOURCE; returns how many files of a folder were ignored."""
    if "://" in source and not source.startswith("file://"):
        raise ValueError(f"source {source!r} is not a local path; copy the videos to a local or mounted folder first")
    path = Path(source.removeprefix("file://")).expanduser().absolute()
    before, num_ignored = len(found), 0
    if path.is_dir():
        num_ignored = _add_folder(path, found)
    elif path.suffix.lower() in LISTING_SUFFIXES and path.is_file():
        for row in listing_rows(path):
            relative = os.path.relpath(row.path, path.parent)
            _add_row(found.setdefault(row.path, _Found(row.path, relative)), row)
    elif path.exists() or path.is_symlink():
        found.setdefault(str(path), _Found(str(path), path.name))
    elif _GLOB.search(source):
        root = _glob_root(path)
        for match in sorted(glob.glob(str(path), recursive=True)):
            if os.path.isfile(match):
                found.setdefault(match, _Found(match, os.path.relpath(match, root)))
    else:
        raise ValueError(f"source {source!r} does not exist (looked for {path}); check the path, or quote a glob")
    if len(found) == before and not found:
        raise ValueError(f"source {source!r} holds no video; known endings are {' '.join(sorted(VIDEO_SUFFIXES))}")
    return num_ignored


def _add_folder(root: Path, found: dict[str, _Found]) -> int:
    num_ignored = 0
    visited: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(root, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
            folders.clear()
            continue
        visited.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if name.startswith("."):
                continue
            if Path(name).suffix.lower() not in VIDEO_SUFFIXES:
                num_ignored += 1
                continue
            path = os.path.join(folder, name)
            found.setdefault(path, _Found(path, os.path.relpath(path, root)))
    return num_ignored


def _glob_root(path: Path) -> str:
    parts = []
    for part in path.parts[:-1]:
        if _GLOB.search(part):
            break
        parts.append(part)
    return str(Path(*parts))


def _add_row(item: _Found, row: ListingRow) -> None:
    if row.split is not None:
        item.splits.add(row.split)
    if row.conversation is not None:
        item.conversations.append(row.conversation)


def _with_ids(items: list[_Found]) -> tuple[VideoSource, ...]:
    slugs = [_slug(item.relative) for item in items]
    counts = Counter(slugs)
    paths_by_id: dict[str, list[str]] = defaultdict(list)
    videos = []
    for item, slug in zip(items, slugs, strict=True):
        name = slug if counts[slug] == 1 else _id_with_digest(slug, item.relative)
        paths_by_id[name].append(item.path)
        videos.append(_video(item, name))
    # Two folders may hold the same relative path: their full paths tell them apart.
    videos = [
        video if len(paths_by_id[video.id]) == 1 else replace(video, id=_id_with_digest(video.id, video.uri))
        for video in videos
    ]
    return tuple(sorted(videos, key=lambda video: video.id))


def with_free_ids(videos: Iterable[VideoSource], taken: Set[str]) -> tuple[VideoSource, ...]:
    """The videos, with a digest of the path behind each id that is taken by another one.

    Raises:
        ValueError: such an id is taken as well.
    """
    free = []
    for video in videos:
        if video.id in taken:
            video = replace(video, id=_id_with_digest(video.id, video.uri))
            if video.id in taken:
                raise ValueError(f"the id {video.id!r} for {video.uri} is taken by another video; rename the file")
        free.append(video)
    return tuple(free)


def _video(item: _Found, name: str) -> VideoSource:
    try:
        status = os.stat(item.path)
        size_bytes, mtime_ns = status.st_size, status.st_mtime_ns
    except OSError:
        size_bytes, mtime_ns = -1, 0  # the probe says why
    return VideoSource(
        id=name,
        uri=item.path,
        size_bytes=size_bytes,
        mtime_ns=mtime_ns,
        split=next(iter(item.splits), None),
        conversations=tuple(item.conversations),
    )


def _slug(relative: str) -> str:
    stem = os.path.splitext(relative)[0].lower()
    slug = re.sub(r"[^a-z0-9_]+", "-", stem).strip("-")
    if not slug:
        return f"video-{_path_digest(relative)}"
    if len(slug) > MAX_ID_CHARS:
        return _id_with_digest(slug, relative)
    return slug


def _id_with_digest(name: str, path: str) -> str:
    return f"{name[: MAX_ID_CHARS - _DIGEST_CHARS - 1]}-{_path_digest(path)}"


def _path_digest(path: str) -> str:
    return hashlib.sha256(path.encode(errors="surrogateescape")).hexdigest()[:_DIGEST_CHARS]
