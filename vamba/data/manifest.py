"""The dataset's table of contents, as values: which samples exist, and which bytes of which shard hold each of them.

`pipelines.manifest_io` reads and writes it as Parquet; the planner and the reader use only these classes. Everything a
reader needs to plan an epoch is here, so that no shard is opened before its bytes are wanted. Standard library only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from vamba.data.sample import SPLITS, Media, Split

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One sample: its place in a shard and the numbers that planning needs."""

    id: str  # [a-z0-9_-]+, unique in the dataset
    shard: str  # name of the shard, e.g. "shard-000000.tar"
    offset_bytes: int  # where the header of its first tar member begins in the shard
    size_bytes: int  # length of all its members, headers and padding included: one range read gives one sample
    split: Split
    media: Media
    duration_ns: int  # of the source
    num_frames: int  # stored
    width: int  # of the stored frames, pixels
    height: int  # of the stored frames, pixels
    num_conversations: int
    source_uri: str
    source_digest: str  # "sha256:…"
    # Video tokens of all stored frames at the published model's resolution, 0 if it takes no frames of that size.
    num_tokens: int | None = None  # None in datasets from before it was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """One tar file of the dataset."""

    name: str  # file name under shards/
    size_bytes: int  # of the whole file
    sha256: str  # 64 hex digits, of the whole file
    num_samples: int
    index_sha256: str | None = None  # 64 hex digits, of the index beside it; None in datasets from before there was one


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A version of a dataset. A shard that it does not list does not exist.

    Raises:
        ValueError: a sample names an unknown shard or lies outside it, or two samples share an id.
    """

    format_version: int = FORMAT_VERSION
    version: int = 1  # of the dataset: 1, then one more for each extension
    config_digest: str  # "sha256:…" of the settings that shaped the data
    inputs_digest: str = ""  # "sha256:…" of the list of inputs: URIs, sizes, splits, conversations
    shards: tuple[ShardRow, ...]
    samples: tuple[SampleRow, ...]  # ordered by shard, then offset

    def __post_init__(self) -> None:
        sizes = {shard.name: shard.size_bytes for shard in self.shards}
        seen: set[str] = set()
        for row in self.samples:
            if row.shard not in sizes:
                raise ValueError(f"manifest: sample {row.id} lies in shard {row.shard!r}, which is not listed")
            if row.offset_bytes < 0 or row.size_bytes <= 0 or row.offset_bytes + row.size_bytes > sizes[row.shard]:
                raise ValueError(f"manifest: sample {row.id} lies outside shard {row.shard!r}")
            if row.id in seen:
                raise ValueError(f"manifest: two samples have the id {row.id!r}")
            seen.add(row.id)

    @property
    def digest(self) -> str:
        """Digest ("sha256:…") of the whole content; two datasets are equal exactly when their digests are."""
        document = asdict(self)
        for table in ("shards", "samples"):
            document[table] = [known_fields(row) for row in document[table]]
        return digest_of(document)

    def select(self, split: str) -> tuple[SampleRow, ...]:
        """The samples of one split, in manifest order (possibly none).

        Raises:
            ValueError: `split` is not "train", "validation" or "test".
        """
        if split not in SPLITS:
            raise ValueError(f"split is {split!r}; it must be one of {', '.join(SPLITS)}")
        return tuple(row for row in self.samples if row.split == split)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Something that could not be ingested. A row of failures.parquet, never only a log line."""

    stage: str  # "sources", "probe", "plan", "decode" or "pack"
    id: str  # of the sample that is missing because of it
    source_uri: str
    error_class: str  # a short stable word: "truncated", "not_a_video" …
    message: str  # one paragraph for the user
    command: str = ""  # shell command that shows the problem; "" in datasets from before it was recorded


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRow:
    """Something that a version of a dataset was asked to hold, whether it succeeded or failed."""

    id: str  # of the sample
    uri: str
    digest: str  # "sha256:…" of its URI, size, split and conversations


def known_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a row without those that are None because the dataset is too old to have them.

    So the digest of such a dataset stays what it was.
    """
    return {key: value for key, value in row.items() if value is not None}


def digest_of(document: object) -> str:
    """Digest ("sha256:…") of a JSON-ready value. Keys are sorted: it does not depend on their order."""
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "sha256:" + hashlib.sha256(text.encode()).hexdigest()


def sort_rows(rows: Iterable[SampleRow]) -> tuple[SampleRow, ...]:
    """Rows in the order that a manifest lists them: by shard name, then by offset."""
    return tuple(sorted(rows, key=lambda row: (row.shard, row.offset_bytes)))
