"""Frames of a dataset's longest video, small, with their timestamps: what the model was shown.

The video is cut into equal spans and each is represented by the frame that differs most from the whole video's mean
picture, so that short events are seen and not only what surrounds them.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

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

    rows = read_manifest(data_uri).samples
    if not rows:
        return None
    chosen = (
        [row for row in rows if row.id == video] if video else [max(rows, key=lambda row: (row.duration_ns, row.id))]
    )
    if not chosen:
        raise ValueError(f"The dataset {data_uri} has no sample {video!r}.")
    sample = read_sample(open_storage(data_uri), chosen[0])
    indices = _striking(sample.frames, min(num_thumbnails, len(sample.frames)))
    return ContactSheet(
        video=sample.id,
        source_uri=sample.source_uri,
        duration_s=sample.duration_ns / 1e9,
        num_frames=len(sample.frames),
        thumbnails=tuple(
            Thumbnail(data_uri=_thumbnail(sample.frames[index]), time=clock(sample.timestamps_ns[index] / 1e9))
            for index in indices
        ),
    )


def clock(seconds: float) -> str:
    """2527.3 → "0:42:07"."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _striking(frames: Sequence[bytes], count: int) -> list[int]:
    import numpy as np
    import simplejpeg

    tiny = np.stack(
        [
            simplejpeg.decode_jpeg(
                data, colorspace="RGB", fastdct=True, min_height=16, min_width=16, min_factor=8
            ).mean(axis=(0, 1))
            for data in frames
        ]
    )
    distance = np.abs(tiny - np.median(tiny, axis=0)).sum(axis=1)
    edges = [round(index * len(frames) / count) for index in range(count + 1)]
    return [start + int(distance[start:end].argmax()) for start, end in zip(edges, edges[1:], strict=False)]


def _thumbnail(data: bytes) -> str:
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        height = max(1, round(image.height * _THUMB_WIDTH / image.width))
        small = image.convert("RGB").resize((_THUMB_WIDTH, height), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=_JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
