"""What an ingest refuses before it costs memory or time, and how long decoding may take.

Sizes and lengths are read from headers, before anything is decoded. Times are in proportion to the work: a segment gets
`per_cost` seconds for each CPU second that the plan estimates for it; decoding sequentially, the last resort, gets as
much for all that comes before the segment's end.
"""

from __future__ import annotations

from pipelines.ingest.config import Limits, Watchdog
from pipelines.ingest.types import IngestError, PlannedVideo

# A cautious estimate of a full decode: the slowest codecs take twice as long as H.264 at 1,850 frames/s of 640x360.
_FULL_PIXEL_S = 2 / 430e6
_FULL_FRAME_S = 60e-6


def check_pixels(width: int, height: int, max_pixels: int) -> None:
    """Refuses pictures that would take too much memory.

    Raises:
        IngestError: "unsupported".
    """
    remedy = f"limits.max_pixels ({max_pixels}); raise it (and watchdog.max_rss_bytes), or scale it down"
    if width * height > max_pixels:
        raise IngestError("unsupported", f"its pictures have {width} x {height} pixels, above {remedy}")
    if width * height == 0:  # ffmpeg, told the limit, does not give the size of what is above it
        raise IngestError("unsupported", f"the size of its pictures is not known, or above {remedy}")


def check_duration(seconds: float, limits: Limits) -> None:
    """Refuses videos that are too long.

    Raises:
        IngestError: "too_long".
    """
    if limits.max_duration_s is not None and seconds > limits.max_duration_s:
        raise IngestError(
            "too_long",
            f"it lasts {seconds:.1f} s, longer than limits.max_duration_s ({limits.max_duration_s:g} s); raise the "
            "limit, or cut it",
        )


def time_limit_s(watchdog: Watchdog, cost_s: float) -> float:
    """Wall seconds that a decoder may take for work that is estimated to cost `cost_s` CPU seconds."""
    return watchdog.base_s + watchdog.per_cost * cost_s


def sequential_costs_s(video: PlannedVideo) -> list[float]:
    """Of each segment: estimated CPU seconds to decode everything from the start of the video to the segment's end."""
    if video.source.media == "image":
        return [segment.cost_s for segment in video.segments]
    frame_s = _FULL_FRAME_S + video.probe["width"] * video.probe["height"] * _FULL_PIXEL_S
    full_s = video.probe["num_frames"] * frame_s
    costs_s = []
    num_targets = 0
    for segment in video.segments:
        num_targets += len(segment.target_pts)
        is_whole = video.is_counted or not video.duration_ns
        share = 1.0 if is_whole else video.timestamps_ns[num_targets - 1] / video.duration_ns
        costs_s.append(segment.cost_s + full_s * share)
    return costs_s
