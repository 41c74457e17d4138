"""What a decoder is asked for a planned video where no job hands out its segments: `vamba ask`, benchmarks."""

from __future__ import annotations

from pipelines.ingest.types import DecodeRequest, PlannedVideo


def requests_of(video: PlannedVideo, jpeg_quality: int) -> list[DecodeRequest]:
    """One request per segment, in the order of the video."""
    return [
        DecodeRequest(
            uri=video.source.location.uri,
            offset_bytes=video.source.location.offset_bytes,
            length_bytes=video.source.location.length_bytes,
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
