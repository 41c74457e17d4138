"""Stored frames as H.264 in short groups: `frames.store: h264`.

    decoded picture ──> yuv420p ── groups of `gop_frames`, an encoder each ──> access units, one a frame ── mux ──> MP4

A group is a keyframe and the frames after it, each referring to the one before. Groups begin at frame 0, gop_frames,
2 gop_frames … of the sample, and a segment of the plan is cut only there: so the bytes do not depend on how the video
was cut, and any frame is at most gop_frames - 1 frames from a keyframe. One encoder per group, one thread, no choice
left to the processor: x264 then gives the same bytes everywhere. Annex B units carry their own parameter sets, so
they can be staged, joined and decoded without anything else.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation

TIME_BASE = Fraction(1, 90_000)  # of the MP4; the exact times stand in the sample's JSON
# In the movie's time scale stands when the first frame comes, by default in milliseconds.
_MP4 = {"fflags": "+bitexact", "movie_timescale": str(TIME_BASE.denominator)}
_BITEXACT = Interpolation.AREA | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# x264 spends more on a frame that is on screen for longer. Stored frames are looked at one by one: at 25 frames/s crf
# 23 leaves 35.5 dB of a film in 5 kB a frame, at 1 it leaves 41.2 dB in 22 kB. So each counts as a second.
_ENCODER_FPS = 1
# `veryfast` stays within 5 % of the bytes of `medium` at 0.3 to 0.9 dB less, for a third of the CPU.
_PRESET = "veryfast"
_START_CODE = b"\x00\x00\x01"
_SEI = 6  # the type of the unit in which x264 writes its version and settings, 700 bytes a group


def to_yuv420p(rgb: np.ndarray) -> bytes:
    """uint8 [height, width, 3] as planes of BT.709, limited range; odd sides are made even by repeating the last."""
    height, width = rgb.shape[:2]
    even = np.pad(rgb, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
    planes = frame.reformat(
        format="yuv420p",
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
        interpolation=_BITEXACT,
        threads=1,
    )
    return planes.to_ndarray().tobytes()


def encode_groups(pictures: Sequence[bytes], *, width: int, height: int, gop_frames: int, crf: int) -> list[bytes]:
    """Pictures of `to_yuv420p`, of frames `width` x `height`, as one access unit each, in the same order."""
    units: list[bytes] = []
    for start in range(0, len(pictures), gop_frames):
        group = pictures[start : start + gop_frames]
        units += _encode_group(group, width + width % 2, height + height % 2, crf)
    return units


def write_mp4(path: Path, units: Iterable[bytes], timestamps_ns: Sequence[int], end_ns: int) -> None:
    """Muxes access units, whose frames are on screen from `timestamps_ns` on and the last until `end_ns`.

    Times are rounded to `TIME_BASE`, and moved on where two would fall together.
    """
    pts: list[int] = []
    for time_ns in (*timestamps_ns, end_ns):
        pts.append(max(round(time_ns * TIME_BASE.denominator / Fraction(10**9)), pts[-1] + 1 if pts else 0))
    waiting = iter(units)
    first = next(waiting)
    with (
        av.open(io.BytesIO(first), format="h264") as template,
        av.open(str(path), "w", format="mp4", options=_MP4) as container,
    ):
        stream: Any = container.add_stream_from_template(template.streams.video[0])
        stream.time_base = TIME_BASE
        for index, unit in enumerate(_chain(first, waiting)):
            packet = av.Packet(unit)
            packet.stream, packet.time_base = stream, TIME_BASE
            packet.pts = packet.dts = pts[index]
            packet.duration = pts[index + 1] - pts[index]
            packet.is_keyframe = _is_keyframe(unit)
            container.mux(packet)


def _chain(first: bytes, others: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from others


def _encode_group(pictures: Sequence[bytes], width: int, height: int, crf: int) -> list[bytes]:
    context: Any = av.CodecContext.create("libx264", "w")
    context.width, context.height, context.pix_fmt = width, height, "yuv420p"
    context.time_base, context.framerate = Fraction(1, _ENCODER_FPS), Fraction(_ENCODER_FPS)
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    context.thread_count, context.thread_type = 1, "NONE"
    fixed = "bframes=0:scenecut=0:open-gop=0:threads=1:lookahead-threads=1:cpu-independent=1"
    # The colours of `to_yuv420p` are means of 2 x 2 pixels, so they belong to the middle of these: 1. Taken for 0,
    # to the left of these, they would come back half a pixel off, which costs 2 to 5 dB.
    fixed += ":chromaloc=1"
    context.options = {
        "preset": _PRESET,
        "crf": str(crf),
        "x264-params": f"keyint={len(pictures) + 1}:min-keyint=1:{fixed}",
    }
    packets = []
    for index, picture in enumerate(pictures):
        planes = np.frombuffer(picture, np.uint8).reshape(height * 3 // 2, width)
        frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        frame.pts = index
        packets += context.encode(frame)
    packets += context.encode(None)
    assert [packet.pts for packet in packets] == list(range(len(pictures)))
    return [_without_sei(bytes(packet)) for packet in packets]


def _without_sei(unit: bytes) -> bytes:
    """An access unit without supplemental information. Start codes cannot occur inside of what they separate."""
    parts = unit.split(_START_CODE)
    kept = [part for part in parts[1:] if part[0] & 0x1F != _SEI]
    return parts[0] + b"".join(_START_CODE + part for part in kept)


def _is_keyframe(unit: bytes) -> bool:
    return any(part[0] & 0x1F == 5 for part in unit.split(_START_CODE)[1:])
