"""The pieces of an ingest's work that the benchmarks share."""

from __future__ import annotations

from pathlib import Path

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.types import DecodeRequest, PlannedVideo, VideoSource


def source_of(path: Path) -> VideoSource:
    """A file as an ingest lists it."""
    size_bytes = path.stat().st_size
    return VideoSource(id="v", uri=str(path), size_bytes=size_bytes, mtime_ns=0, split=None, conversations=())


def plan_of(path: Path, config: IngestConfig) -> PlannedVideo:
    """A file probed and planned in this process."""
    return plan_video(source_of(path), probe_video(str(path)), config)


def requests_of(video: PlannedVideo, jpeg_quality: int = 85) -> list[DecodeRequest]:
    """What the decoder is asked, one request per segment."""
    return [
        DecodeRequest(
            uri=video.source.uri,
            codec=video.codec,
            stream_index=video.stream_index,
            key_pts=segment.key_pts,
            key_dts=segment.key_dts,
            target_pts=segment.target_pts,
            seeks=segment.seeks,
            width=video.width,
            height=video.height,
            orientation=video.orientation,
            jpeg_quality=jpeg_quality,
        )
        for segment in video.segments
    ]
