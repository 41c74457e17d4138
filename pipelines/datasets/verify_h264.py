"""Checks an H.264 stream of a sample: as many frames as the row says, of its size, at its times, in short groups.

MP4 file ── its packets (and, if asked, all its frames) ──> what is wrong, as the rest of a sentence about the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO, Any

from vamba.data.h264 import ONLY_MP4
from vamba.data.manifest import SampleRow

_TOLERANCE_NS = 5_600  # half a unit of the stream's time base, 1/90000 s


def h264_problem(file: IO[bytes], row: SampleRow, timestamps_ns: Sequence[int], *, decode: bool) -> str:
    """What is wrong with the stream; empty if nothing is."""
    import av

    try:
        with av.open(file, "r", **ONLY_MP4) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            size = (row.width + row.width % 2, row.height + row.height % 2)
            if (context.name, context.width, context.height) != ("h264", *size):
                return f"is {context.name} of {context.width}x{context.height} pixels, not h264 of {size[0]}x{size[1]}"
            packets = [packet for packet in container.demux(stream) if packet.size]
            return _packet_problem(packets, row, timestamps_ns) or (
                _decoding_problem(context, packets) if decode else ""
            )
    except (av.error.FFmpegError, IndexError) as error:
        return f"is not a readable stream: {error}"


def _packet_problem(packets: Sequence[Any], row: SampleRow, timestamps_ns: Sequence[int]) -> str:
    if len(packets) != row.num_frames:
        return f"has {len(packets)} frames, not {row.num_frames}"
    if not packets[0].is_keyframe:
        return "does not begin with a keyframe"
    for index, (packet, expected_ns) in enumerate(zip(packets, timestamps_ns, strict=True)):
        if packet.pts is None or packet.pts != packet.dts:
            return f"has frame {index} out of order"
        found_ns = packet.pts * packet.time_base * 10**9
        # Times closer than a unit are moved on, so later ones are the only other ones that can be right.
        if abs(found_ns - expected_ns) > _TOLERANCE_NS and not (index and packet.pts == packets[index - 1].pts + 1):
            return f"has frame {index} at {float(found_ns) / 1e9:.6f} s, not at {expected_ns / 1e9:.6f} s"
    return ""


def _decoding_problem(context: Any, packets: Sequence[Any]) -> str:
    context.thread_type, context.thread_count = "NONE", 1
    num_frames = 0
    for packet in [*packets, None]:
        for frame in context.decode(packet):
            if frame.is_corrupt:
                return f"has frame {num_frames} damaged"
            num_frames += 1
    return "" if num_frames == len(packets) else f"decodes to {num_frames} frames, not {len(packets)}"
