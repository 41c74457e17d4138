"""Single frames of a dataset, each by a small range read, however large the sample around it is.

manifest row ── the shard's index ──> ranges of its members ── range reads ──> the JSON and the frames asked for. Of an
H.264 stream its own index and the groups of those frames are read. A dataset from before there were indexes has its
tar headers read instead, one after the other.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.datasets.shard_stream import WHOLE_PIECES_BYTES, ShardStream, read_header
from pipelines.manifest_io import SHARDS_PREFIX, iterate_samples
from pipelines.shard_index import MemberRange, read_index
from pipelines.storage import Storage, open_storage
from vamba.data.frames import decode_jpegs
from vamba.data.h264 import decode_h264
from vamba.data.manifest import SampleRow
from vamba.data.sample import frame_name, store_of, video_name

# Locally a read costs microseconds, so that it pays to pass over what stands between two headers.
_SPARSE_PIECES_BYTES = 16 << 10

Picture = bytes | np.ndarray
"""A JPEG file, or pixels: RGB, uint8 [height, width, 3]."""

UNREADABLE = (OSError, EOFError, ValueError, TypeError, LookupError, tarfile.TarError)
"""What reading a damaged sample raises."""


class FrameAccess:
    """Reads frames of any samples of one dataset. It keeps the index of the shard that was read last."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._shard = ""
        self._index: dict[str, tuple[MemberRange, ...]] | None = None

    def read_frames(self, row: SampleRow, indices: Sequence[int]) -> tuple[dict[str, Any], list[Picture]]:
        """The JSON of a sample, and the frames with these numbers, in their order.

        Raises one of `UNREADABLE` where the sample is damaged.
        """
        members = {member.name: member for member in self._members(row)}
        document = json.loads(self._read(row, members, f"{row.id}.json"))
        if not isinstance(document, dict):
            raise ValueError(f"the JSON of sample {row.id} is not an object")
        if store_of(document) == "jpeg":
            return document, [self._read(row, members, frame_name(row.id, index)) for index in indices]
        video = self._range_of(row, members, video_name(row.id))
        file = _RangeFile(self._storage, f"{SHARDS_PREFIX}/{row.shard}", video)
        return document, [*decode_h264(file, indices, width=row.width, height=row.height)]

    def _members(self, row: SampleRow) -> Sequence[MemberRange]:
        if row.shard != self._shard:
            try:
                self._index = read_index(self._storage, row.shard)
            except FileNotFoundError:
                self._index = None
            self._shard = row.shard
        if self._index is None:
            return _walk(self._storage, row)
        if row.id not in self._index:
            raise ValueError(f"the index of {row.shard} has no sample {row.id}")
        return self._index[row.id]

    def _range_of(self, row: SampleRow, members: dict[str, MemberRange], name: str) -> MemberRange:
        if name not in members:
            raise ValueError(f"sample {row.id} has no member {name}")
        return members[name]

    def _read(self, row: SampleRow, members: dict[str, MemberRange], name: str) -> bytes:
        member = self._range_of(row, members, name)
        return self._storage.read_range(f"{SHARDS_PREFIX}/{row.shard}", member.offset_bytes, member.size_bytes)


def read_frame(data: str, sample_id: str, frame_number: int) -> np.ndarray:
    """One stored frame, 0-based, of one sample: RGB, uint8 [height, width, 3].

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: it has no such sample, or that no such frame; or one of `UNREADABLE`, where it is damaged.
    """
    row = next((row for row in iterate_samples(data) if row.id == sample_id), None)
    if row is None:
        raise ValueError(f"{data} has no sample {sample_id!r}; `vamba data ls {data}` lists them")
    if not 0 <= frame_number < row.num_frames:
        raise ValueError(f"sample {sample_id} has frames 0 to {row.num_frames - 1}, and no frame {frame_number}")
    _, (picture,) = FrameAccess(open_storage(data)).read_frames(row, [frame_number])
    return decode_jpegs([picture])[0] if isinstance(picture, bytes) else picture


class _RangeFile(io.RawIOBase):
    """A member of a shard as a file that is read by range."""

    def __init__(self, storage: Storage, path: str, member: MemberRange) -> None:
        super().__init__()
        self._storage, self._path, self._member, self._position = storage, path, member, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._member.size_bytes}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        length = max(0, min(len(buffer), self._member.size_bytes - self._position))
        if length:
            buffer[:length] = self._storage.read_range(self._path, self._member.offset_bytes + self._position, length)
        self._position += length
        return length


def _walk(storage: Storage, row: SampleRow) -> list[MemberRange]:
    end = row.offset_bytes + row.size_bytes
    chunk_bytes = WHOLE_PIECES_BYTES if storage.uri.startswith("s3://") else _SPARSE_PIECES_BYTES
    stream = ShardStream(storage, row.shard, begin=row.offset_bytes, end=end, chunk_bytes=chunk_bytes)
    members = []
    while stream.position < end:
        header = read_header(stream)
        member = MemberRange(name=header.name, offset_bytes=stream.position, size_bytes=header.size_bytes)
        members.append(member)
        stream.skip(header.size_bytes + header.padding_bytes)
    return members
