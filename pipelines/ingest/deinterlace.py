"""An interlaced frame to the picture at its presentation time: its first field, the other field's lines interpolated.

Data: decoded frame → which of its fields comes first → the same frame with the second field's lines written over.
The two fields of a frame were taken at different times, and the frame's timestamp is that of the first. Temporal
filters (bwdif, yadif) mix in the second field and the frames around it; this one looks at a single field, so that the
stored picture is the one at its timestamp, needs no neighbour decoded, and is the same however the video is cut. What
it gives up is vertical detail in still parts, little of which would survive the scaling to the stored size.
"""

from __future__ import annotations

from typing import Any

import av
import numpy as np

from pipelines.ingest.types import IngestError

# HEVC codes each field as a picture of its own; such a picture holds no second field to replace.
_FIELD_PICTURE_CODECS = {"hevc"}


def is_interlaced(frame: Any, codec: str) -> bool:
    """Whether the decoder says that the frame is woven from two fields."""
    return bool(frame.interlaced_frame) and codec not in _FIELD_PICTURE_CODECS and frame.height > 1


def deinterlace(frame: Any) -> Any:
    """The frame, changed in place where nothing else refers to it, with all its lines from its first field.

    Raises:
        IngestError: "unsupported", for pixel formats whose lines are not made of 8 to 16 bit numbers.
    """
    pixels = frame.format
    bits = pixels.components[0].bits
    if pixels.is_big_endian or pixels.has_palette or pixels.is_bit_stream or not 8 <= bits <= 16:
        raise IngestError("unsupported", f"interlaced {pixels.name} cannot be deinterlaced; re-encode it, progressive")
    first = _first_field(frame)
    dtype = np.uint8 if bits == 8 else np.dtype("<u2")
    # p010 and its like keep their bits at the upper end of 16.
    most = 0xFFFF if pixels.name.startswith(("p0", "p2", "p4")) else (1 << bits) - 1
    frame.make_writable()
    for plane in frame.planes:
        lines = np.frombuffer(plane, dtype).reshape(plane.height, -1)
        if len(lines) > 1:
            lines[1 - first :: 2] = _between(lines[first::2], len(lines[1 - first :: 2]), first, most)
    return frame


def _first_field(frame: Any) -> int:
    """0 if the top field comes first, 1 if the bottom field does. The flag is only visible to filters."""
    graph = av.filter.Graph()
    graph.threads = 1
    size, pixels = f"{frame.width}x{frame.height}", frame.format.name
    source = graph.add("buffer", f"video_size={size}:pix_fmt={pixels}:time_base=1/1000:pixel_aspect=1/1")
    separate, sink = graph.add("separatefields"), graph.add("buffersink")
    source.link_to(separate)
    separate.link_to(sink)
    graph.configure()
    source.push(frame)
    source.push(None)
    field: Any = sink.pull()
    whole, half = frame.planes[0], field.planes[0]
    width = whole.width * (2 if frame.format.components[0].bits > 8 else 1)
    top = np.frombuffer(whole, np.uint8).reshape(whole.height, -1)[: 2 * half.height : 2, :width]
    return 0 if np.array_equal(top, np.frombuffer(half, np.uint8).reshape(half.height, -1)[:, :width]) else 1


def _between(kept: np.ndarray, num_lines: int, first: int, most: int) -> np.ndarray:
    """The lines between those of a field, by the cubic through the two above and the two below: (-1, 9, 9, -1) / 16."""
    field: np.ndarray = kept.astype(np.int16 if most == 0xFF else np.int32)
    above = np.arange(num_lines) - first
    rows = [field[np.clip(above + offset, 0, len(field) - 1)] for offset in (-1, 0, 1, 2)]
    lines: np.ndarray = (9 * (rows[1] + rows[2]) - rows[0] - rows[3] + 8) >> 4
    return np.clip(lines, 0, most).astype(kept.dtype)
