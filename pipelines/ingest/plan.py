"""Plans an ingest: which frames, cut into which segments, packed into which shards. Pure functions, nothing is decoded.

Data: `ProbedVideo` → targets (vamba.data.sampling) → segments of whole GOPs (segments.py) → `PlannedVideo`; all planned
videos → `ShardPlan`s; the segments still to do → task groups. The same inputs and settings give the same plan on any
machine, so everything planned can be named before it exists, and resuming is a comparison.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable
from fractions import Fraction

import numpy as np

from pipelines.ingest.config import IngestConfig, SplitRule
from pipelines.ingest.segments import (
    Reading,
    Storing,
    cut_segments,
)
from pipelines.ingest.sizes import frame_bytes
from pipelines.ingest.types import IngestError, PlannedVideo, ProbedImage, ProbedVideo, ShardPlan, VideoSource
from vamba.data.sampling import select_frames

_MEMBER_OVERHEAD_BYTES = 768
_TIME_CHARS = 14  # of a frame's time in the JSON
# What `orientation` amounts to: degrees to turn clockwise, after mirroring left to right or not.
_TURNS = {"": (0, False), "tx": (90, False), "xy": (180, False), "ty": (270, False)}
_TURNS |= {"x": (0, True), "txy": (90, True), "y": (180, True), "t": (270, True)}


def plan_video(source: VideoSource, probe: ProbedVideo, config: IngestConfig) -> PlannedVideo:
    """Chooses the frames of one video and cuts it into segments.

    Raises:
        IngestError: "unsupported", if `auto` can give the video no frame: one frame is too small, or over the budget.
    """
    shown = np.unique(probe.pts[probe.is_shown])
    width, height = stored_size(probe, config.frames.long_edge, config.frames.short_edge)
    target_pts = shown[_choose(probe, shown, (width, height), config)]
    start_pts = int(shown[0])
    store = config.frames.store
    storing = Storing.of(store, config.frames.gop_frames)
    is_remote = "://" in source.uri and not source.uri.startswith("file://")
    reading = Reading.of(probe, source.size_bytes, is_remote=is_remote)
    return PlannedVideo(
        source=source,
        digest=probe.digest,
        split=source.split or split_of(probe.digest, config.split),
        codec=probe.codec,
        stream_index=probe.stream_index,
        store=store,
        time_base=probe.time_base,
        width=width,
        height=height,
        orientation=probe.orientation,
        duration_ns=_to_ns(probe.end_pts - start_pts, probe.time_base),
        frame_bytes=frame_bytes(probe, width, height, store, config.frames),
        timestamps_ns=tuple(_to_ns(int(pts) - start_pts, probe.time_base) for pts in target_pts),
        probe={
            "container": probe.container,
            "codec": probe.codec,
            "width": probe.width,
            "height": probe.height,
            "fps": str(probe.average_fps),
            "num_frames": len(shown),
            "num_keyframes": int(probe.is_key.sum()),
            "orientation": probe.orientation,
            "rotation": _TURNS[probe.orientation][0],
            "is_mirrored": _TURNS[probe.orientation][1],
            "pixel_format": probe.pixel_format,
            "is_hdr": probe.is_hdr,
            "is_interlaced": probe.is_interlaced,
            "pixel_aspect": str(probe.pixel_aspect),
            "has_audio": probe.has_audio,
            **({"times": "counted"} if probe.is_counted else {}),
            "size_bytes": source.size_bytes,
        },
        segments=cut_segments(source.id, probe, target_pts, width * height, config.segment_cost_s, reading, storing),
    )


def _choose(probe: ProbedVideo, shown: np.ndarray, size: tuple[int, int], config: IngestConfig) -> list[int]:
    is_key = np.isin(shown, probe.pts[probe.is_key & probe.is_shown])
    # array gives Python's integers, as arithmetic on times needs them, at 8 bytes each.
    times = (array("q", shown.tobytes()), probe.end_pts, probe.time_base)
    try:
        return select_frames(config.sampling, *times, is_key=is_key.tolist(), stored_size=size)
    except ValueError as error:
        raise IngestError("unsupported", f"sampling.policy auto finds no frame for it: {error}") from error


def stored_size(probe: ProbedVideo | ProbedImage, long_edge: int, short_edge: int) -> tuple[int, int]:
    """Width and height of the stored frames: upright, square pixels, within the edges, never enlarged."""
    width, height = Fraction(probe.width) * probe.pixel_aspect, Fraction(probe.height)
    if "t" in probe.orientation:
        width, height = height, width
    scale = min(Fraction(1), long_edge / max(width, height), short_edge / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def split_of(digest: str, rule: SplitRule) -> str:
    """The split of a video with this source digest: its first 8 bytes as a fraction of one."""
    place = int(hashlib.sha256(digest.encode()).hexdigest()[:16], 16) / 2**64
    if place < rule.validation_fraction:
        return "validation"
    return "test" if place < rule.validation_fraction + rule.test_fraction else "train"


def plan_shards(videos: Iterable[PlannedVideo], target_shard_bytes: int) -> tuple[ShardPlan, ...]:
    """Puts the videos into shards in order of id: a shard is closed by the video that takes it to the target size."""
    shards: list[ShardPlan] = []
    members: list[PlannedVideo] = []
    size_bytes = 0
    ordered = sorted(videos, key=lambda video: video.source.id)
    for index, video in enumerate(ordered):
        members.append(video)
        size_bytes += estimated_bytes(video)
        if size_bytes >= target_shard_bytes or index == len(ordered) - 1:
            shards.append(ShardPlan(name=f"shard-{len(shards):06d}.tar", videos=tuple(members)))
            members, size_bytes = [], 0
    return tuple(shards)


def estimated_bytes(video: PlannedVideo) -> int:
    """About how many bytes of a shard a video will take."""
    num_frames = len(video.timestamps_ns)
    num_members = 1 + (num_frames if video.store == "jpeg" else 1)
    text_chars = sum(len(turn.value) for talk in video.source.conversations for turn in talk.turns)
    return num_frames * (video.frame_bytes + _TIME_CHARS) + num_members * _MEMBER_OVERHEAD_BYTES + text_chars


def _to_ns(pts: int, time_base: Fraction) -> int:
    return round(pts * time_base * 1_000_000_000)
