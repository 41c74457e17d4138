"""Finds the samples in the tars of a WebDataset, by the headers of their members.

Data: tar (local or remote) → header after header, the bytes between them skipped → members grouped as webdataset groups
them → one `TarSample` each. Only `.json` and `.txt` members are read. A remote tar is read by ranges of a few
kilobytes, one for each member that is larger.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from pipelines.filesystems import filesystem_of, is_local
from pipelines.ingest.kinds import media_of
from pipelines.ingest.listings import conversation_in, split_in
from pipelines.ingest.types import IngestError
from vamba.data.sample import Conversation, Media

_RANGE_BYTES = 16 * 1024
_MOST_TEXT_BYTES = 16 * 1024**2
_NAME = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # webdataset's rule: the key ends at the first dot of the base name
_TEXT_SUFFIXES = ("json", "txt")


@dataclass(frozen=True, slots=True, kw_only=True)
class TarSample:
    """A sample of a tar that has a video or an image."""

    member: str  # name of the media
    media: Media
    offset_bytes: int  # where its content begins
    size_bytes: int
    mtime_ns: int
    split: str | None
    conversation: Conversation | None
    problem: IngestError | None = None  # why nothing can be made of it


@dataclass(slots=True)
class _Group:
    key: str
    media: dict[Media, list[tarfile.TarInfo]] = field(default_factory=lambda: {"video": [], "image": []})
    texts: dict[str, bytes] = field(default_factory=dict)
    problem: IngestError | None = None


def tar_samples(tar: str) -> Iterator[TarSample | None]:
    """The samples of a tar at a path or URI, in order; None for one without a video or an image.

    Raises:
        IngestError: with class "bad_tar", it is no tar, or ends too early: the samples before that have been given.
        OSError: it cannot be read.
    """
    group: _Group | None = None
    for key, suffix, info, text in _members(tar):
        if group is None or key != group.key:
            if group is not None:
                yield _sample(tar, group)
            group = _Group(key)
        media = media_of(f"member.{suffix}")  # a bare ".mp4" has an ending too
        if media is not None:
            group.media[media].append(info)
            if info.sparse is not None:
                message = f"{tar}: {info.name} is stored as a sparse file; write the tar again without --sparse"
                group.problem = IngestError("unsupported", message)
        elif text is not None:
            group.texts[suffix] = text
    if group is not None:
        yield _sample(tar, group)


def _members(tar: str) -> Iterator[tuple[str, str, tarfile.TarInfo, bytes | None]]:
    """Key, suffix, header and (of a text) content of each member that belongs to a sample."""
    with _opened(tar) as file:
        try:
            with tarfile.open(fileobj=file, mode="r:") as archive:
                for info in archive:
                    archive.members = []  # type: ignore[attr-defined]  # tarfile keeps every header it has seen
                    name = _NAME.fullmatch(info.name)
                    if not info.isreg() or name is None or re.match("__[^/]*__($|/)", info.name):
                        continue
                    suffix = name[2].lower()
                    text = None
                    if suffix in _TEXT_SUFFIXES and info.size <= _MOST_TEXT_BYTES:
                        text = archive.extractfile(info).read()  # type: ignore[union-attr]
                    yield name[1], suffix, info, text
        except tarfile.TarError as error:
            raise IngestError("bad_tar", f"{tar} is no whole tar: {error}; write or copy it again") from error


def _opened(tar: str) -> BinaryIO:
    filesystem, path = filesystem_of(tar)
    if is_local(tar):
        return open(path, "rb", buffering=_RANGE_BYTES)
    file = filesystem.open(path, "rb", cache_type="none")  # or it would read ahead, into members
    if not file.seekable():
        file.close()
        raise IngestError("io_error", f"{tar}: its server gives no ranges of it; copy it to where they can be read")
    return io.BufferedReader(_Ranges(file), _RANGE_BYTES)


class _Ranges(io.RawIOBase):
    """A remote file, read by the ranges that are asked for."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._file.seek(offset, whence)
        return int(self._file.tell())

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _sample(tar: str, group: _Group) -> TarSample | None:
    """The sample of a group: its video, else its image (a picture beside a video is a thumbnail)."""
    media: Media = "video" if group.media["video"] else "image"
    members = group.media[media]
    if not members:
        return None
    problem, split, conversation = group.problem, None, None
    if len(members) > 1:
        names = ", ".join(info.name for info in members[:4])
        message = (
            f"{tar}: the sample {group.key!r} has {len(members)} {media}s ({names}), and a sample holds one; give each "
            "a key of its own (the name up to its first dot)"
        )
        problem = IngestError("unsupported", message)
    try:
        row = _row(f"{tar}#{group.key}.json", group.texts)
        split = split_in(f"{tar}#{group.key}", row)
        conversation = conversation_in(f"{tar}#{group.key}", row, media)
    except ValueError as error:
        problem = problem or IngestError("bad_row", str(error))
    return TarSample(
        member=members[0].name,
        media=media,
        offset_bytes=members[0].offset_data,
        size_bytes=members[0].size,
        mtime_ns=int(members[0].mtime) * 1_000_000_000,
        split=split,
        conversation=conversation,
        problem=problem,
    )


def _row(place: str, texts: dict[str, bytes]) -> dict[str, Any]:
    """What the texts of a sample say, as the row of a listing: the JSON, or the text as its caption."""
    row: Any = {}
    if "json" in texts:
        try:
            row = json.loads(texts["json"])
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{place} is not valid JSON: {error}; correct the member") from error
        if isinstance(row, list):
            row = {"conversations": row}
        if not isinstance(row, dict):
            raise ValueError(f"{place} must be an object (or a list of turns); correct the member")
        row = {name: value for name, value in row.items() if value is not None}
    if not {"conversations", "caption", "text"} & set(row) and "txt" in texts:
        caption = texts["txt"].decode().strip()
        row |= {"caption": caption} if caption else {}
    return row
