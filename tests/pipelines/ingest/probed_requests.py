"""Decode requests straight from a probe: every frame as coded, whatever a plan would choose."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pipelines.ingest.types import DecodeRequest, ProbedVideo, Segment


def requests_for(path: Path, probe: ProbedVideo, segments: Iterable[Segment]) -> list[DecodeRequest]:
    """One per segment of the film at `path`."""
    return [
        DecodeRequest(
            uri=str(path),
            codec=probe.codec,
            stream_index=probe.stream_index,
            key_pts=segment.key_pts,
            key_dts=segment.key_dts,
            target_pts=segment.target_pts,
            seeks=segment.seeks,
            width=probe.width,
            height=probe.height,
            orientation="",
            jpeg_quality=95,
        )
        for segment in segments
    ]
