"""The work of an ingest as tables for Ray: one a task, sized so that cores wait little, between tasks and at the end.

Ray Data looks for finished tasks ten times a second, and the core of a finished one waits meanwhile: about 0.2 s for
each task, measured. So there are as few tasks as keep all cores busy to the end: each takes an equal share of what is
left (guided self-scheduling, Polychronopoulos and Kuck 1987), within limits. Which segments share one changes no byte.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from pipelines.ingest.limits import sequential_costs_s
from pipelines.ingest.rows import SOURCE_SCHEMA, TASK_SCHEMA, source_row
from pipelines.ingest.types import PlannedVideo, Segment, ShardPlan, VideoSource

_TURNS = 1.5  # that each core gets of what is left
_MOST_TASK_S = 15.0  # what a lost worker has to do again at most, but for what it has staged

_PROBE_BYTES_PER_S = 400e6  # hashing and demuxing, for grouping only
_PROBE_FILE_S = 0.03
_LEAST_PROBE_TASK_S = 0.25


def group_by_cost(costs_s: Sequence[float], least_s: float, num_cores: int) -> list[range]:
    """Consecutive items in tasks for `num_cores` cores: large at first, of `least_s` at least but the last."""
    groups = []
    start, cost_s, left_s = 0, 0.0, sum(costs_s)
    enough_s = _enough_s(left_s, least_s, num_cores)
    for index, item_s in enumerate(costs_s):
        cost_s += item_s
        left_s -= item_s
        if cost_s >= enough_s or index == len(costs_s) - 1:
            groups.append(range(start, index + 1))
            start, cost_s, enough_s = index + 1, 0.0, _enough_s(left_s, least_s, num_cores)
    return groups


def _enough_s(left_s: float, least_s: float, num_cores: int) -> float:
    return min(max(left_s / (_TURNS * num_cores), least_s), _MOST_TASK_S)


def probe_tasks(sources: Sequence[VideoSource], num_cores: int) -> list[pa.Table]:
    """SOURCE_SCHEMA: every source once."""
    costs_s = [_PROBE_FILE_S + max(source.size_bytes, 0) / _PROBE_BYTES_PER_S for source in sources]
    rows = [{"source": source_row(source)} for source in sources]
    return [
        pa.Table.from_pylist([rows[index] for index in group], schema=SOURCE_SCHEMA)
        for group in group_by_cost(costs_s, _LEAST_PROBE_TASK_S, num_cores)
    ]


def decode_tasks(
    shards: Sequence[ShardPlan], committed: Set[str], done: Set[str], segment_cost_s: float, num_cores: int
) -> list[pa.Table]:
    """TASK_SCHEMA: every segment but those `done`, and the packing of every shard but those `committed`.

    segment_cost_s: of a full segment; a task is half of one or more.
    """
    segments, costs_s = [], []
    pack_only = []
    for shard in shards:
        if shard.name in committed:
            continue
        todo = [(video, segment) for video in shard.videos for segment in video.segments if segment.name not in done]
        if not todo:
            pack_only.append({"segments": [], "shards": [{"name": shard.name, "num_segments": shard.num_segments}]})
        sequential_s = {
            segment.name: cost_s
            for video in shard.videos
            for segment, cost_s in zip(video.segments, sequential_costs_s(video), strict=True)
        }
        for video, segment in todo:
            segments.append(_segment_row(shard.name, video, segment, sequential_s[segment.name]))
            costs_s.append(segment.cost_s)
    counts = {shard.name: shard.num_segments for shard in shards}
    rows = []
    for group in group_by_cost(costs_s, segment_cost_s / 2, num_cores):
        items = [segments[index] for index in group]
        names = sorted({str(item["shard"]) for item in items})
        rows.append({"segments": items, "shards": [{"name": n, "num_segments": counts[n]} for n in names]})
    return [pa.Table.from_pylist([row], schema=TASK_SCHEMA) for row in pack_only + rows]


def _segment_row(shard: str, video: PlannedVideo, segment: Segment, sequential_cost_s: float) -> dict[str, Any]:
    return {
        "shard": shard,
        "segment": asdict(segment),
        "source_uri": video.source.uri,
        "media": video.source.media,
        **asdict(video.source.location),
        "codec": video.codec,
        "stream_index": video.stream_index,
        "width": video.width,
        "height": video.height,
        "orientation": video.orientation,
        "store": video.store,
        "is_damaged": "partial" in video.probe,
        "is_counted": video.is_counted,
        "sequential_cost_s": sequential_cost_s,
    }
