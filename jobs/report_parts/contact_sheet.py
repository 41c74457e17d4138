"""Frames of a dataset's longest video, small, with their timestamps: what the model was shown.

The video is cut into equal spans and each is represented by the frame that differs most from the whole video's mean
picture, so that short events are seen and not only what surrounds them.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from vamba.data.sample import Sample

_CHUNK_FRAMES = 64
_THUMB_WIDTH = 240
_JPEG_QUALITY = 72


@dataclass(frozen=True, slots=True, kw_only=True)
class Thumbnail:
    """A frame as a data URI. time: "0:42:07"."""

    data_uri: str
    time: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ContactSheet:
    """Thumbnails in order, and the video they are of."""

    video: str
    source_uri: str
    duration_s: float
    num_frames: int
    thumbnails: tuple[Thumbnail, ...]


def contact_sheet(data_uri: str, *, video: str = "", num_thumbnails: int = 24) -> ContactSheet | None:
    """Of the sample `video`, or of the longest one; None for an empty dataset. Raises ValueError for an unknown id."""
    from pipelines.evaluation.questions import read_sample
    from pipelines.manifest_io import read_manifest
    from pipelines.storage import open_storage
    from vamba.data.stored_frames import stored_frames

    rows = read_manifest(data_uri).samples
    if not rows:
        return None
    chosen = (
        [row for row in rows if row.id == video] if video else [max(rows, key=lambda row: (row.duration_ns, row.id))]
    )
    if not chosen:
        raise ValueError(f"The dataset {data_uri} has no sample {video!r}.")
    sample = read_sample(open_storage(data_uri), chosen[0])
    frames = stored_frames(sample)
    indices = _striking(_mean_colours(sample), min(num_thumbnails, len(frames)))
    return ContactSheet(
        video=sample.id,
        source_uri=sample.source_uri,
        duration_s=sample.duration_ns / 1e9,
        num_frames=len(frames),
        thumbnails=tuple(
            Thumbnail(data_uri=thumbnail(picture), time=clock(sample.timestamps_ns[index] / 1e9))
            for index, picture in zip(indices, frames.decode(indices), strict=True)
        ),
    )


def clock(seconds: float) -> str:
    """2527.3 → "0:42:07"."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _mean_colours(sample: Sample) -> np.ndarray:
    """float[N, 3] of all frames, a few in memory at a time."""
    import numpy as np
    import simplejpeg

    from vamba.data.stored_frames import stored_frames

    if sample.store == "jpeg":  # libjpeg makes a small picture in a fraction of the time
        small = (
            simplejpeg.decode_jpeg(data, colorspace="RGB", fastdct=True, min_height=16, min_width=16, min_factor=8)
            for data in sample.frames
        )
        return np.stack([picture.mean(axis=(0, 1)) for picture in small])
    frames = stored_frames(sample)
    starts = range(0, len(frames), _CHUNK_FRAMES)
    pieces = (frames.decode(range(start, min(start + _CHUNK_FRAMES, len(frames)))) for start in starts)
    return np.concatenate([piece.mean(axis=(1, 2)) for piece in pieces])


def _striking(colours_N3: np.ndarray, count: int) -> list[int]:
    import numpy as np

    distance = np.abs(colours_N3 - np.median(colours_N3, axis=0)).sum(axis=1)
    edges = [round(index * len(colours_N3) / count) for index in range(count + 1)]
    return [start + int(distance[start:end].argmax()) for start, end in zip(edges, edges[1:], strict=False)]


def thumbnail(picture: np.ndarray) -> str:
    """uint8[H, W, 3] as a small JPEG, a data URI."""
    from PIL import Image

    image = Image.fromarray(picture)
    height = max(1, round(image.height * _THUMB_WIDTH / image.width))
    small = image.resize((_THUMB_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
