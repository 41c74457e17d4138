"""Plans an image: a video of one frame at time 0, which lasts no time, in one segment."""

from __future__ import annotations

from fractions import Fraction

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.plan import split_of, stored_size
from pipelines.ingest.types import IngestError, PlannedVideo, ProbedImage, Segment, VideoSource

_DECODE_S_PER_PIXEL = 12e-9  # of the source; PNG takes twice as much, a large JPEG a third
_STORE_S_PER_PIXEL = 8e-9
_OPEN_S = 0.001
_JPEG_BYTES_PER_PIXEL = 0.2  # photographs and drawings; what shards are planned with
_MAX_ASPECT = 200  # of the stored sides: the vision tower takes no slimmer picture


def plan_image(source: VideoSource, probe: ProbedImage, config: IngestConfig) -> PlannedVideo:
    """Chooses the stored size.

    Raises:
        IngestError: "unsupported", for a picture that is too slim to be used.
    """
    width, height = stored_size(probe, config.frames.long_edge, config.frames.short_edge)
    if max(width, height) > _MAX_ASPECT * min(width, height):
        raise IngestError(
            "unsupported", f"its sides are {probe.width} and {probe.height}: slimmer than 1 to {_MAX_ASPECT}"
        )
    cost_s = probe.width * probe.height * _DECODE_S_PER_PIXEL + width * height * _STORE_S_PER_PIXEL
    return PlannedVideo(
        source=source,
        digest=probe.digest,
        split=source.split or split_of(probe.digest, config.split),
        codec=probe.format,
        stream_index=0,
        time_base=Fraction(1),
        store="jpeg",
        width=width,
        height=height,
        orientation=probe.orientation,
        duration_ns=0,
        frame_bytes=round(width * height * _JPEG_BYTES_PER_PIXEL),
        timestamps_ns=(0,),
        probe={
            "codec": probe.format,
            "mode": probe.mode,
            "width": probe.width,
            "height": probe.height,
            "orientation": probe.orientation,
            "has_profile": probe.has_profile,
            "size_bytes": source.size_bytes,
        },
        segments=(Segment(name=f"{source.id}.000000", key_pts=0, key_dts=0, target_pts=(0,), cost_s=_OPEN_S + cost_s),),
    )
