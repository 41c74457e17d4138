"""Cuts an ingest into batches, so that the driver holds the plans of some thousand videos and never of all.

A batch is some consecutive sources, in order of id: probed, planned, decoded and packed before the next one begins. Its
last shard is usually not full yet; the videos of that shard are carried into the next batch. So the shards are those
of one pass over all sources, whatever the size of the batches, and that size may change between two runs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pipelines.ingest.plan import estimated_bytes, plan_shards
from pipelines.ingest.staging import Staging
from pipelines.ingest.store import StoredSource
from pipelines.ingest.types import PlannedVideo, ShardPlan, shard_name, shard_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """Where the next batch begins."""

    batch: int  # its number, from 0
    after_id: str  # the last source before it
    first_shard: int  # number of its first shard
    carried: tuple[PlannedVideo, ...]  # videos of the shard that is not full yet


def next_position(staging: Staging, first_shard: int) -> Position:
    """Behind the batches that are finished; `first_shard` is the number of the ingest's first shard."""
    batch = staging.finished_batches()
    if batch == 0:
        return Position(batch=0, after_id="", first_shard=first_shard, carried=())
    record = staging.read_batch(batch - 1)
    carried = staging.read_carried(batch - 1)
    return Position(batch=batch, after_id=record.last_id, first_shard=record.next_shard, carried=carried)


def take_batch(sources: Iterable[StoredSource], max_videos: int, max_bytes: int) -> list[StoredSource]:
    """The first sources, up to a number and a size; at least one, if there are any."""
    taken: list[StoredSource] = []
    size_bytes = 0
    for item in sources:
        size_bytes += max(item.source.size_bytes, 0)
        if taken and size_bytes > max_bytes:
            break
        taken.append(item)
        if len(taken) == max_videos:
            break
    return taken


def shards_of_batch(
    videos: Sequence[PlannedVideo], first_shard: int, target_shard_bytes: int, *, is_last: bool
) -> tuple[tuple[ShardPlan, ...], tuple[PlannedVideo, ...]]:
    """The shards that the carried and planned videos fill, and the videos that are carried on."""
    shards = tuple(
        replace(shard, name=shard_name(first_shard + shard_number(shard.name)))
        for shard in plan_shards(videos, target_shard_bytes)
    )
    if not shards or is_last or sum(map(estimated_bytes, shards[-1].videos)) >= target_shard_bytes:
        return shards, ()
    return shards[:-1], shards[-1].videos
