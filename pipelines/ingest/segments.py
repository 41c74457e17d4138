"""Cuts one video into segments: consecutive whole GOPs of near-equal cost, with the places where reading seeks.

Data: packet index and targets → per GOP with targets, what reading and decoding it costs → the gaps between such GOPs,
each read over or jumped over, whichever is cheaper → segments. Pure functions of the probe and the settings.

**The rule for a gap**: seek when the packets in between are more than a seek costs, counted in packets; of a remote
source also only when their share of the bytes of the file is more than a request costs, counted in bytes. Where the
constants come from: CPU seconds on one core of 2020s x86, `python -m benchmarks.ingest_seeks` for the reading.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.ingest.types import ProbedVideo, Segment
from vamba.data.sample import Store

# Decoding: H.264 at 1,850 frames/s of 640x360, skipping included; JPEG takes 1 ms of those.
_PIXELS_PER_S = 430e6
_PACKET_S = 27e-6
_SLOWER_CODECS = {"hevc": 1.5, "av1": 1.5, "vp9": 1.2, "prores": 2.0}
_JPEG_S_PER_PIXEL = 4e-9
_H264_S_PER_PIXEL = 30e-9
# Reading on: 3 µs a packet and a copy of its bytes.
_READ_PACKET_S = 3e-6
_READ_BYTE_S = 0.12e-9
# A seek costs as much as reading 3 to 8 packets with an index, 66 in the large one of ten hours of MP4, and 29 in a
# transport stream, which is searched. In other containers (FLV: 292 and more) it may read all that it passes over.
_MIN_GAP_PACKETS = {"mov,mp4,m4a,3gp,3g2,mj2": 64, "matroska,webm": 64, "avi": 64, "mpegts": 128}
# An object store, assumed, not measured: 100 MB/s to one reader, 50 ms until the first byte of a request.
_REMOTE_BYTE_S = 10e-9
_REMOTE_MIN_GAP_BYTES = 5e6
# Opening: 5 ms, and in MP4 the index of all packets, 97 ms for 1.08 million, every time that a segment opens the file.
# So no segment is planned that works for less than 20 times as long.
_OPEN_S = 0.005
_INDEX_PACKET_S = 0.09e-6
_MIN_SEGMENT_OPENS = 20
# The end of a long video, and of a job, is cut smaller, so that cores that are done early wait for less.
TAPERED_FROM = 8
NUM_TAPERED = 2
TAPER = 4
# JPEG quality 85 at 640x360 takes 0.16 bytes a pixel; other qualities are close enough to plan with.
JPEG_BYTES_PER_PIXEL = 0.16
# A worker holds the frames of a segment; more of them make more segments, even out of one GOP. Before they are encoded
# as H.264 they are pictures, so there are fewer to a segment; not so few that one endless GOP is decoded many times.
_MAX_SEGMENT_BYTES = 32 * 1024**2
_PICTURE_BYTES_PER_PIXEL = 1.5
_MAX_PICTURE_BYTES = 96 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What passing over parts of a source costs."""

    packet_s: float  # per packet of the video, with its share of the file's bytes
    min_gap_packets: float  # a longer gap is jumped over; infinite where a seek saves nothing

    @classmethod
    def of(cls, probe: ProbedVideo, size_bytes: int, *, is_remote: bool) -> Reading:
        """Of a source of that size, sound and all."""
        packet_bytes = max(size_bytes, 1) / len(probe.pts)
        packet_s = _READ_PACKET_S + packet_bytes * (_REMOTE_BYTE_S if is_remote else _READ_BYTE_S)
        min_gap_packets = float(_MIN_GAP_PACKETS.get(probe.container, np.inf))
        if is_remote:
            min_gap_packets = max(min_gap_packets, _REMOTE_MIN_GAP_BYTES / packet_bytes)
        return cls(packet_s=packet_s, min_gap_packets=min_gap_packets)


@dataclass(frozen=True, slots=True, kw_only=True)
class Storing:
    """What storing frames costs, and where a segment may begin."""

    pixel_s: float  # CPU seconds per pixel of a frame
    max_pixels: float  # of all frames of a segment, so that a worker can hold them
    group_frames: int = 1  # segments begin at multiples of so many frames of the video

    @classmethod
    def of(cls, store: Store, gop_frames: int) -> Storing:
        """By the setting `frames.store`; groups of frames that are encoded together stay in one segment."""
        if store == "jpeg":
            return cls(pixel_s=_JPEG_S_PER_PIXEL, max_pixels=_MAX_SEGMENT_BYTES / JPEG_BYTES_PER_PIXEL)
        max_pixels = _MAX_PICTURE_BYTES / _PICTURE_BYTES_PER_PIXEL
        return cls(pixel_s=_H264_S_PER_PIXEL, max_pixels=max_pixels, group_frames=gop_frames)


@dataclass(frozen=True, slots=True)
class _Parts:
    """GOPs with targets, or parts of one with many; an entry each, in order. Each is decoded from its keyframe on."""

    gop: np.ndarray  # index among the keyframes
    first_target: np.ndarray
    num_targets: np.ndarray
    costs_s: np.ndarray
    seeks: np.ndarray  # bool: reading jumps to it


def cut_segments(
    video_id: str,
    probe: ProbedVideo,
    target_pts: np.ndarray,
    stored_pixels: int,
    segment_cost_s: float,
    reading: Reading,
    storing: Storing | None = None,
) -> tuple[Segment, ...]:
    """Cuts a video at keyframes, or between groups, into segments of near-equal cost, each with at least one target.

    Without `storing`, frames are stored as JPEG files.
    """
    storing = storing or Storing.of("jpeg", gop_frames=1)
    keys = np.flatnonzero(probe.is_key)
    keys = keys[np.argsort(probe.pts[keys], kind="stable")]
    parts = _parts(probe, keys, target_pts, stored_pixels, reading, storing)
    index_s = len(probe.pts) * _INDEX_PACKET_S
    full_cost_s = max(segment_cost_s, _MIN_SEGMENT_OPENS * index_s)
    weights = np.maximum(parts.costs_s / full_cost_s, parts.num_targets * stored_pixels / storing.max_pixels)
    starts = _segment_starts(parts, weights, storing.group_frames)
    segments: list[Segment] = []
    for start, end in zip(starts, [*starts[1:], len(target_pts)], strict=True):
        first, last = (np.searchsorted(parts.first_target, [start, end - 1], side="right") - 1).tolist()
        restarts = keys[[parts.gop[part] for part in range(first + 1, last + 1) if parts.seeks[part]]]
        key = keys[parts.gop[first]]
        segments.append(
            Segment(
                name=f"{video_id}.{len(segments):06d}",
                key_pts=int(probe.pts[key]),
                key_dts=int(probe.dts[key]),
                target_pts=tuple(target_pts[start:end].tolist()),
                cost_s=_OPEN_S + index_s + float(parts.costs_s[first : last + 1].sum()),
                seeks=tuple(zip(probe.pts[restarts].tolist(), probe.dts[restarts].tolist(), strict=True)),
            )
        )
    return tuple(segments)


def _segment_starts(parts: _Parts, weights: np.ndarray, group_frames: int) -> list[int]:
    """The target that each segment begins with."""
    starts = parts.first_target[np.flatnonzero(np.diff(_segment_of_part(weights), prepend=-1))]
    # The nearest group: then the GOP it lies in is decoded by two segments, by each as far as it needs.
    starts = np.unique(np.round(starts / group_frames).astype(int) * group_frames)
    num_targets = parts.first_target[-1] + parts.num_targets[-1]
    return [int(start) for start in starts if start < num_targets]


def _segment_of_part(weights: np.ndarray) -> np.ndarray:
    """Which segment each part goes to, by what it weighs in full segments: the one that its middle falls into."""
    ends = np.cumsum(weights)
    num_segments = min(len(weights), max(1, round(float(ends[-1]))))
    place = np.minimum((ends - weights / 2) / ends[-1] * num_segments, num_segments - 1e-9)
    if num_segments < TAPERED_FROM:
        return place.astype(int)
    full = num_segments - NUM_TAPERED
    return np.where(place < full, place, full + (place - full) * TAPER).astype(int)


def _parts(
    probe: ProbedVideo, keys: np.ndarray, target_pts: np.ndarray, stored_pixels: int, reading: Reading, storing: Storing
) -> _Parts:
    gop_of_target = np.searchsorted(probe.pts[keys], target_pts, side="right") - 1
    max_targets = max(1, int(storing.max_pixels / stored_pixels))
    gop_starts = np.flatnonzero(np.diff(gop_of_target, prepend=-1))
    place_in_gop = np.arange(len(target_pts)) - np.repeat(gop_starts, np.diff(np.append(gop_starts, len(target_pts))))
    first_target = np.flatnonzero(place_in_gop % max_targets == 0)
    num_targets = np.diff(np.append(first_target, len(target_pts)))
    gop = gop_of_target[first_target]
    order = np.argsort(probe.pts, kind="stable")
    decode_position = order[np.searchsorted(probe.pts, target_pts, sorter=order)]
    last_position = np.maximum.reduceat(decode_position, first_target)
    gap_packets = np.append(0, np.maximum(keys[gop[1:]] - last_position[:-1] - 1, 0))
    seeks = gap_packets > reading.min_gap_packets
    passing_s = np.minimum(gap_packets, reading.min_gap_packets) * reading.packet_s
    slower = _SLOWER_CODECS.get(probe.codec, 1.0)
    packet_s = reading.packet_s + _PACKET_S + probe.width * probe.height / _PIXELS_PER_S * slower
    # The pictures that lead the next keyframe come after it: they belong to this GOP and cost a little more than this.
    costs_s = passing_s + (last_position - keys[gop] + 1) * packet_s + num_targets * stored_pixels * storing.pixel_s
    return _Parts(gop=gop, first_target=first_target, num_targets=num_targets, costs_s=costs_s, seeks=seeks)
