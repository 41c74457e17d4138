"""The samples of a split as columns: what planning and reading need of a million rows, in some 70 MB.

    manifest rows ──> SampleTable: arrays ── table[i] ──> PlacedSample, made when it is asked for

A row object with its strings takes about a kilobyte, and every rank holds all of them; what nobody asks for while
training (where the source was, its digest) is left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np


class Placed(Protocol):
    """A sample's place and size: a row of the manifest, or of a `SampleTable`."""

    @property
    def id(self) -> str: ...
    @property
    def shard(self) -> str: ...
    @property
    def offset_bytes(self) -> int: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def media(self) -> str: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def height(self) -> int: ...
    @property
    def num_conversations(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedSample:
    """One row of a `SampleTable`; fields as in `vamba.data.manifest.SampleRow`."""

    id: str
    shard: str
    offset_bytes: int
    size_bytes: int
    media: str
    num_frames: int
    width: int
    height: int
    num_conversations: int


class Labels:
    """A column of a few different words, as numbers. names: in alphabetical order."""

    def __init__(self, words: Sequence[str]) -> None:
        self.names = tuple(sorted(set(words)))
        number = {name: i for i, name in enumerate(self.names)}
        self.codes = np.fromiter((number[word] for word in words), np.int32, len(words))

    def __getitem__(self, index: int) -> str:
        return self.names[self.codes[index]]


class SampleTable(Sequence[PlacedSample]):
    """Rows in manifest order, indexed like a list. Columns are int64 or int32 arrays; `ids` are ASCII bytes."""

    def __init__(self, rows: Sequence[Placed]) -> None:
        count = len(rows)
        self.ids = np.array([row.id.encode("ascii") for row in rows], dtype=np.bytes_)
        self.shards = Labels([row.shard for row in rows])
        self.media = Labels([row.media for row in rows])
        self.offset_bytes = np.fromiter((row.offset_bytes for row in rows), np.int64, count)
        self.size_bytes = np.fromiter((row.size_bytes for row in rows), np.int64, count)
        self.num_frames = np.fromiter((row.num_frames for row in rows), np.int32, count)
        self.width = np.fromiter((row.width for row in rows), np.int32, count)
        self.height = np.fromiter((row.height for row in rows), np.int32, count)
        self.num_conversations = np.fromiter((row.num_conversations for row in rows), np.int32, count)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> PlacedSample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[PlacedSample]: ...
    def __getitem__(self, index: int | slice) -> PlacedSample | Sequence[PlacedSample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return PlacedSample(
            id=self.ids[index].decode(),
            shard=self.shards[index],
            offset_bytes=int(self.offset_bytes[index]),
            size_bytes=int(self.size_bytes[index]),
            media=self.media[index],
            num_frames=int(self.num_frames[index]),
            width=int(self.width[index]),
            height=int(self.height[index]),
            num_conversations=int(self.num_conversations[index]),
        )

    def __iter__(self) -> Iterator[PlacedSample]:
        return (self[index] for index in range(len(self)))
