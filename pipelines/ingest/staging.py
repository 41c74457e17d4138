"""The work area of an unfinished ingest: what is done, under names that follow from the plan.

Layout below `OUT/_ingest/<16 hex digits>/` (digits of the settings, the sources and the version that is extended, if
there is one, so that a changed source starts afresh):

* `plans/<batch>.parquet`: probed and planned videos of the batch that is being worked on, and the probe's failures;
* `shards/<shard>.parquet`: the videos of one shard, for whoever packs it;
* `segments/<shard>/<segment>.seg`: the frames of one decoded segment, or the failure of it;
* `commits/<shard>.json`: a shard that is packed, with its rows;
* `carried/<batch>.parquet`: videos of the shard that the batch left unfinished: the next one begins with them;
* `batches/<batch>.json`: a finished batch, with the rows of its shards; the files above are no more needed then;
* `scratch/`: shards that are being written, on a local file system.

All but those appear whole. Resuming is a comparison of the plan with the files that are there; nothing else is kept.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipelines.ingest.lock import check_holder
from pipelines.ingest.rows import from_parquet, probed_from_table, probed_table, to_parquet
from pipelines.ingest.types import PlannedVideo, ShardCommit, ShardPlan
from pipelines.storage import Storage, open_storage
from vamba.data.manifest import Failure, SampleRow, ShardRow

WORK_PREFIX = "_ingest"
_HEADER = struct.Struct("<Q")
_LAST_ID_KEY = b"last_id"


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchPlan:
    """What is known of the sources of a batch before a frame is decoded."""

    last_id: str  # of the batch's sources
    results: tuple[PlannedVideo | Failure, ...]  # of each, ordered by id


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishedBatch:
    """What a batch came to: rows as JSON objects, since a million samples are merged from such records."""

    last_id: str  # of the batch's sources
    next_shard: int  # number of the shard that the next batch begins with
    num_sources: int
    num_segments: int  # in its shards
    shards: list[dict[str, Any]]  # `ShardRow`s
    samples: list[dict[str, Any]]  # `SampleRow`s
    failures: list[dict[str, Any]]  # `Failure`s


def batch_name(batch: int) -> str:
    """Name of a batch, by its number from 0."""
    return f"batch-{batch:06d}"


class Staging:
    """Reads and writes the work area of one ingest."""

    def __init__(self, out: str, key: str, holder: str = "") -> None:
        self.storage: Storage = open_storage(out)
        self.key, self.holder = key, holder
        self._prefix = f"{WORK_PREFIX}/{key.removeprefix('sha256:')[:16]}"

    def check_holder(self) -> None:
        """Raises LeaseLost if the destination is another ingest's by now. What follows writes or removes something."""
        check_holder(self.storage, self.holder)

    def read_plan(self, batch: int) -> BatchPlan | None:
        """The stored plan of a batch; None before there is one."""
        path = f"{self._prefix}/plans/{batch_name(batch)}.parquet"
        if not self.storage.exists(path):
            return None
        table = from_parquet(self.storage.read_bytes(path))
        last_id = (table.schema.metadata or {})[_LAST_ID_KEY].decode()
        return BatchPlan(last_id=last_id, results=tuple(probed_from_table(table)))

    def write_plan(self, batch: int, plan: BatchPlan, shards: Iterable[ShardPlan]) -> None:
        """Stores the plan of a batch: the shards first, since a stored plan promises them."""
        for shard in shards:
            self.check_holder()
            table = probed_table(shard.videos)
            self.storage.write_atomic(f"{self._prefix}/shards/{shard.name}.parquet", to_parquet(table))
        table = probed_table(plan.results).replace_schema_metadata({_LAST_ID_KEY: plan.last_id})
        self.check_holder()
        self.storage.write_atomic(f"{self._prefix}/plans/{batch_name(batch)}.parquet", to_parquet(table))

    def finished_batches(self) -> int:
        """How many batches are finished."""
        return len(self.storage.list(f"{self._prefix}/batches"))

    def read_batch(self, batch: int) -> FinishedBatch:
        """The record of a finished batch."""
        document = json.loads(self.storage.read_bytes(f"{self._prefix}/batches/{batch_name(batch)}.json"))
        return FinishedBatch(**document)

    def read_carried(self, batch: int) -> tuple[PlannedVideo, ...]:
        """What a finished batch left to the next one."""
        path = f"{self._prefix}/carried/{batch_name(batch)}.parquet"
        rows = probed_from_table(from_parquet(self.storage.read_bytes(path)))
        return tuple(row for row in rows if isinstance(row, PlannedVideo))

    def finish_batch(self, batch: int, record: FinishedBatch, carried: Iterable[PlannedVideo]) -> None:
        """Records that a batch is finished, and removes what only an unfinished one needs."""
        carried_path = f"{self._prefix}/carried/{batch_name(batch)}.parquet"
        self.check_holder()
        self.storage.write_atomic(carried_path, to_parquet(probed_table(carried)))
        document = json.dumps(asdict(record), separators=(",", ":")).encode()
        self.check_holder()
        self.storage.write_atomic(f"{self._prefix}/batches/{batch_name(batch)}.json", document)
        for folder in ("plans", "shards", "commits"):
            self.check_holder()
            self.storage.delete_tree(f"{self._prefix}/{folder}")

    def read_shard(self, name: str) -> ShardPlan:
        """The plan of one shard."""
        rows = probed_from_table(from_parquet(self.storage.read_bytes(f"{self._prefix}/shards/{name}.parquet")))
        return ShardPlan(name=name, videos=tuple(row for row in rows if isinstance(row, PlannedVideo)))

    def write_segment(self, shard: str, segment: str, frames: Sequence[bytes]) -> None:
        """Stores a segment's JPEG files."""
        header = json.dumps({"sizes": [len(frame) for frame in frames]}).encode()
        self._write_segment(shard, segment, b"".join((_HEADER.pack(len(header)), header, *frames)))

    def write_segment_failure(self, shard: str, segment: str, failure: Failure) -> None:
        """Stores that a segment cannot be decoded."""
        header = json.dumps({"failure": asdict(failure)}).encode()
        self._write_segment(shard, segment, _HEADER.pack(len(header)) + header)

    def write_partial_segment(self, shard: str, segment: str, frames: Sequence[bytes | None], failure: Failure) -> None:
        """Stores the JPEG files that could be saved of a segment, which of them are lost (None), and why."""
        kept = [frame for frame in frames if frame is not None]
        lost = [index for index, frame in enumerate(frames) if frame is None]
        document = {"sizes": [len(frame) for frame in kept], "lost": lost, "reason": asdict(failure)}
        header = json.dumps(document).encode()
        self._write_segment(shard, segment, b"".join((_HEADER.pack(len(header)), header, *kept)))

    def read_segment_loss(self, shard: str, segment: str) -> tuple[list[int], Failure] | None:
        """Which targets of a segment are lost, and why; None if it is whole. Reads its header only."""
        header = self._segment_header(shard, segment)[0]
        return (header["lost"], Failure(**header["reason"])) if "lost" in header else None

    def _write_segment(self, shard: str, segment: str, data: bytes) -> None:
        self.check_holder()
        self.storage.write_atomic(self._segment_path(shard, segment), data)

    def read_segment_failure(self, shard: str, segment: str) -> Failure | None:
        """The failure of a segment, None if it has frames. Reads its header only."""
        header = self._segment_header(shard, segment)[0]
        return Failure(**header["failure"]) if "failure" in header else None

    def read_segment(self, shard: str, segment: str) -> list[bytes]:
        """The JPEG files of a segment."""
        header, offset = self._segment_header(shard, segment)
        data = self.storage.read_range(self._segment_path(shard, segment), offset, sum(header["sizes"]))
        frames, position = [], 0
        for size in header["sizes"]:
            frames.append(data[position : position + size])
            position += size
        return frames

    def _segment_header(self, shard: str, segment: str) -> tuple[dict[str, Any], int]:
        path = self._segment_path(shard, segment)
        (length,) = _HEADER.unpack(self.storage.read_range(path, 0, _HEADER.size))
        return json.loads(self.storage.read_range(path, _HEADER.size, length)), _HEADER.size + length

    def done_segments(self, shard: str | None = None) -> set[str]:
        """Names of the segments that are done, of one shard or of all."""
        prefix = f"{self._prefix}/segments" + (f"/{shard}" if shard else "")
        return {entry.path.rpartition("/")[2].removesuffix(".seg") for entry in self.storage.list(prefix)}

    def drop_segments(self, shard: str) -> None:
        """Removes the segments of a shard that is committed."""
        self.check_holder()
        self.storage.delete_tree(f"{self._prefix}/segments/{shard}")

    def write_commit(self, name: str, commit: ShardCommit) -> None:
        """Records that a shard is packed and published."""
        document = json.dumps(asdict(commit), separators=(",", ":")).encode()
        self.check_holder()
        self.storage.write_atomic(f"{self._prefix}/commits/{name}.json", document)

    def is_committed(self, name: str) -> bool:
        """Whether a shard is packed and published."""
        return self.storage.exists(f"{self._prefix}/commits/{name}.json")

    def committed_shards(self) -> set[str]:
        """Names of the shards that are packed and published."""
        prefix = f"{self._prefix}/commits"
        return {entry.path.rpartition("/")[2].removesuffix(".json") for entry in self.storage.list(prefix)}

    def read_commit(self, name: str) -> ShardCommit:
        """The record of a packed shard."""
        document = json.loads(self.storage.read_bytes(f"{self._prefix}/commits/{name}.json"))
        return ShardCommit(
            shard=ShardRow(**document["shard"]) if document["shard"] else None,
            samples=tuple(SampleRow(**row) for row in document["samples"]),
            failures=tuple(Failure(**row) for row in document["failures"]),
        )

    def scratch_dir(self) -> Path:
        """A local folder for shards that are being written."""
        return self.storage.scratch_dir(f"{self._prefix}/scratch")

    def is_only_area(self) -> bool:
        """Whether no other ingest left a work area behind."""
        return self._areas() <= {self._prefix}

    def remove_others(self) -> None:
        """Removes the work areas of other plans: their commits tell of shards that this one may replace."""
        for area in self._areas() - {self._prefix}:
            self.check_holder()
            self.storage.delete_tree(area)

    def _areas(self) -> set[str]:
        return {"/".join(entry.path.split("/")[:2]) for entry in self.storage.list(WORK_PREFIX)}

    def remove_all(self) -> None:
        """Removes the work area, of this plan and of earlier ones, when the dataset is published."""
        self.storage.delete_tree(WORK_PREFIX)

    def _segment_path(self, shard: str, segment: str) -> str:
        return f"{self._prefix}/segments/{shard}/{segment}.seg"
