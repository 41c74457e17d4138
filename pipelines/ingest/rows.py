"""Planned videos and segments as rows of Arrow tables with declared schemas: how they travel through Ray.

A probe gives one row per video, with either the plan or the failure filled in. A decode task is one row: the segments
to do and the shards they belong to.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from fractions import Fraction
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.types import PlannedVideo, Segment, VideoSource
from vamba.data.manifest import Failure, digest_of
from vamba.data.sample import Conversation

_STRING, _INT = pa.string(), pa.int64()

SEGMENT_TYPE = pa.struct(
    [("name", _STRING), ("key_pts", _INT), ("key_dts", _INT), ("target_pts", pa.list_(_INT)), ("cost_s", pa.float64())]
    + [("seeks", pa.list_(pa.list_(_INT)))]
)
SOURCE_TYPE = pa.struct(
    [("id", _STRING), ("uri", _STRING), ("size_bytes", _INT), ("mtime_ns", _INT), ("split", _STRING)]
    + [("conversations_json", _STRING), ("media", _STRING), ("offset_bytes", _INT)]
)
VIDEO_TYPE = pa.struct(
    [("source", SOURCE_TYPE), ("digest", _STRING), ("split", _STRING), ("codec", _STRING), ("stream_index", _INT)]
    + [
        ("store", _STRING),
        ("time_base", _STRING),
        ("width", _INT),
        ("height", _INT),
        ("orientation", _STRING),
        ("duration_ns", _INT),
    ]
    + [
        ("frame_bytes", _INT),
        ("timestamps_ns", pa.list_(_INT)),
        ("probe_json", _STRING),
        ("segments", pa.list_(SEGMENT_TYPE)),
    ]
)
FAILURE_TYPE = pa.struct(
    [("stage", _STRING), ("id", _STRING), ("source_uri", _STRING), ("error_class", _STRING), ("message", _STRING)]
    + [("command", _STRING)]
)

SOURCE_SCHEMA = pa.schema([("source", SOURCE_TYPE)])
PROBED_SCHEMA = pa.schema([("video", VIDEO_TYPE), ("failure", FAILURE_TYPE)])
TASK_SEGMENT_TYPE = pa.struct(
    [("shard", _STRING), ("source_uri", _STRING), ("uri", _STRING), ("offset_bytes", _INT), ("length_bytes", _INT)]
    + [("media", _STRING), ("is_damaged", pa.bool_()), ("is_counted", pa.bool_()), ("codec", _STRING)]
    + [("stream_index", _INT), ("store", _STRING), ("width", _INT)]
    + [("height", _INT), ("orientation", _STRING), ("sequential_cost_s", pa.float64()), ("segment", SEGMENT_TYPE)]
)
TASK_SHARD_TYPE = pa.struct([("name", _STRING), ("num_segments", _INT)])
TASK_SCHEMA = pa.schema([("segments", pa.list_(TASK_SEGMENT_TYPE)), ("shards", pa.list_(TASK_SHARD_TYPE))])
DECODED_SCHEMA = pa.schema(
    [("segment", _STRING), ("num_frames", _INT), ("error_class", _STRING)]  # one row per segment done …
    + [("packed_shard", _STRING)]  # … and one per shard packed, with the others null
)


def source_row(source: VideoSource) -> dict[str, Any]:
    """A source as a value of SOURCE_TYPE."""
    conversations = [conversation.to_json() for conversation in source.conversations]
    return {
        "id": source.id,
        "uri": source.uri,
        "size_bytes": source.size_bytes,
        "mtime_ns": source.mtime_ns,
        "split": source.split,
        "conversations_json": json.dumps(conversations, ensure_ascii=False),
        "media": source.media,
        "offset_bytes": source.offset_bytes,
    }


def input_digest(uri: str, size_bytes: int, split: str | None, conversations_json: str) -> str:
    """Digest of what is known of a source before it is opened; the last as `source_row` writes it."""
    return digest_of({"uri": uri, "size_bytes": size_bytes, "split": split, "conversations_json": conversations_json})


def source_from_row(row: Mapping[str, Any]) -> VideoSource:
    """The inverse of `source_row`."""
    values = dict(row)
    conversations = json.loads(values.pop("conversations_json"))
    return VideoSource(**values, conversations=tuple(Conversation.from_json(item) for item in conversations))


def video_row(video: PlannedVideo) -> dict[str, Any]:
    """A planned video as a value of VIDEO_TYPE."""
    return {
        "source": source_row(video.source),
        "digest": video.digest,
        "split": video.split,
        "codec": video.codec,
        "stream_index": video.stream_index,
        "store": video.store,
        "time_base": str(video.time_base),
        "width": video.width,
        "height": video.height,
        "orientation": video.orientation,
        "duration_ns": video.duration_ns,
        "frame_bytes": video.frame_bytes,
        "timestamps_ns": list(video.timestamps_ns),
        "probe_json": json.dumps(video.probe),
        "segments": [asdict(segment) for segment in video.segments],
    }


def video_from_row(row: Mapping[str, Any]) -> PlannedVideo:
    """The inverse of `video_row`."""
    values = dict(row)
    values["source"] = source_from_row(values["source"])
    values["time_base"] = Fraction(values["time_base"])
    values["timestamps_ns"] = tuple(values["timestamps_ns"])
    values["probe"] = json.loads(values.pop("probe_json"))
    values["segments"] = tuple(segment_from_row(segment) for segment in values["segments"])
    return PlannedVideo(**values)


def segment_from_row(row: Mapping[str, Any]) -> Segment:
    """A segment from a value of SEGMENT_TYPE."""
    seeks = tuple((pts, dts) for pts, dts in row["seeks"])
    return Segment(**{**row, "target_pts": tuple(row["target_pts"]), "seeks": seeks})


def probed_table(results: Iterable[PlannedVideo | Failure]) -> pa.Table:
    """Results of probing and planning, one row each, under PROBED_SCHEMA."""
    rows = [
        {"video": None, "failure": asdict(result)}
        if isinstance(result, Failure)
        else {"video": video_row(result), "failure": None}
        for result in results
    ]
    return pa.Table.from_pylist(rows, schema=PROBED_SCHEMA)


def probed_from_table(table: pa.Table) -> list[PlannedVideo | Failure]:
    """The inverse of `probed_table`."""
    return [
        Failure(**row["failure"]) if row["failure"] is not None else video_from_row(row["video"])
        for row in table.to_pylist()
    ]


def to_parquet(table: pa.Table) -> bytes:
    """The table as the bytes of a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def from_parquet(data: bytes) -> pa.Table:
    """The inverse of `to_parquet`."""
    return pq.read_table(io.BytesIO(data))
