"""Plans an ingest: which frames, cut into which segments, packed into which shards. Pure functions, nothing is decoded.

Data: `ProbedVideo` → targets (vamba.data.sampling) → segments of whole GOPs with near-equal decoding cost →
`PlannedVideo`; all planned videos → `ShardPlan`s; the segments still to do → task groups. The same inputs and settings
give the same plan on any machine, so everything planned can be named before it exists, and resuming is a comparison.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from fractions import Fraction

import numpy as np

from pipelines.ingest.config import IngestConfig, SplitRule
from pipelines.ingest.types import IngestError, PlannedVideo, ProbedImage, ProbedVideo, Segment, ShardPlan, VideoSource
from vamba.data.sampling import select_frames

# CPU cost on one core of 2020s x86: decoding H.264 at 1,850 frames/s of 640x360, skipping included; JPEG 1 ms of those.
_PIXELS_PER_S = 430e6
_PACKET_S = 30e-6
_SLOWER_CODECS = {"hevc": 1.5, "av1": 1.5, "vp9": 1.2, "prores": 2.0}
_JPEG_S_PER_PIXEL = 4e-9
_OPEN_S = 0.005
# JPEG quality 85 at 640x360 takes 0.16 bytes a pixel; other qualities are close enough to plan with.
_JPEG_BYTES_PER_PIXEL = 0.16
_MEMBER_OVERHEAD_BYTES = 768


def plan_video(source: VideoSource, probe: ProbedVideo, config: IngestConfig) -> PlannedVideo:
    """Chooses the frames of one video and cuts it into segments.

    Raises:
        IngestError: "unsupported", if `auto` can give the video no frame: one frame is too small, or over the budget.
    """
    shown = np.unique(probe.pts[probe.is_shown])
    width, height = stored_size(probe, config.frames.long_edge, config.frames.short_edge)
    target_pts = shown[_choose(probe, shown, (width, height), config)]
    start_pts = int(shown[0])
    return PlannedVideo(
        source=source,
        digest=probe.digest,
        split=source.split or split_of(probe.digest, config.split),
        codec=probe.codec,
        stream_index=probe.stream_index,
        time_base=probe.time_base,
        width=width,
        height=height,
        orientation=probe.orientation,
        duration_ns=_to_ns(probe.end_pts - start_pts, probe.time_base),
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
            "pixel_aspect": str(probe.pixel_aspect),
            "has_audio": probe.has_audio,
            **({"times": "counted"} if probe.is_counted else {}),
            "size_bytes": source.size_bytes,
        },
        segments=cut_segments(source.id, probe, target_pts, width * height, config.segment_cost_s),
    )


def _choose(probe: ProbedVideo, shown: np.ndarray, size: tuple[int, int], config: IngestConfig) -> list[int]:
    is_key = np.isin(shown, probe.pts[probe.is_key & probe.is_shown])
    times = (shown.tolist(), probe.end_pts, probe.time_base)
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


def cut_segments(
    video_id: str, probe: ProbedVideo, target_pts: np.ndarray, stored_pixels: int, segment_cost_s: float
) -> tuple[Segment, ...]:
    """Cuts a video at keyframes into segments of near-equal cost, each with at least one target."""
    keys = np.flatnonzero(probe.is_key)
    keys = keys[np.argsort(probe.pts[keys], kind="stable")]
    key_pts = probe.pts[keys]
    gop_of_target = np.searchsorted(key_pts, target_pts, side="right") - 1
    gops, first_target = np.unique(gop_of_target, return_index=True)
    order = np.argsort(probe.pts, kind="stable")
    decode_position = order[np.searchsorted(probe.pts, target_pts, sorter=order)]
    last_position = np.maximum.reduceat(decode_position, first_target)
    num_targets = np.diff(np.append(first_target, len(target_pts)))
    packet_s = _PACKET_S + probe.width * probe.height / _PIXELS_PER_S * _SLOWER_CODECS.get(probe.codec, 1.0)
    # The pictures that lead the next keyframe come after it: they belong to this GOP and cost a little more than this.
    costs = (last_position - keys[gops] + 1) * packet_s + num_targets * stored_pixels * _JPEG_S_PER_PIXEL
    ends = np.cumsum(costs)
    num_segments = min(len(gops), max(1, round(float(ends[-1]) / segment_cost_s)))
    # A GOP goes to the segment that the middle of its cost falls into.
    segment_of_gop = np.minimum((ends - costs / 2) / ends[-1] * num_segments, num_segments - 1).astype(int)
    segments: list[Segment] = []
    for index in np.unique(segment_of_gop):
        members = gops[segment_of_gop == index]
        low, high = np.searchsorted(gop_of_target, [members[0], members[-1] + 1])
        segments.append(
            Segment(
                name=f"{video_id}.{len(segments):06d}",
                key_pts=int(key_pts[members[0]]),
                key_dts=int(probe.dts[keys[members[0]]]),
                target_pts=tuple(int(pts) for pts in target_pts[low:high]),
                cost_s=_OPEN_S + float(costs[segment_of_gop == index].sum()),
            )
        )
    return tuple(segments)


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
    frame_bytes = int(video.width * video.height * _JPEG_BYTES_PER_PIXEL) + _MEMBER_OVERHEAD_BYTES
    return len(video.timestamps_ns) * frame_bytes + 2 * _MEMBER_OVERHEAD_BYTES


def group_by_cost(costs_s: Sequence[float], target_s: float) -> list[range]:
    """Consecutive items, grouped so that each task has enough work to be worth its overhead."""
    groups = []
    start, cost_s = 0, 0.0
    for index, item_s in enumerate(costs_s):
        cost_s += item_s
        if cost_s >= target_s or index == len(costs_s) - 1:
            groups.append(range(start, index + 1))
            start, cost_s = index + 1, 0.0
    return groups


def _to_ns(pts: int, time_base: Fraction) -> int:
    return round(pts * time_base * 1_000_000_000)
