"""What `--partial` keeps of a damaged video, and how it is recorded.

    probe:  damage that the file shows ──────────────┐
    decode: targets lost in each segment ──as_kept()─┴─> the video without them, `partial` in its probe data
                                                         and a failure row beside the sample (class "partial_…")

Times and the choice of frames stay those of the whole: a target that is lost is left out, none takes its place.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pipelines.ingest.types import IngestError, PlannedVideo
from vamba.data.manifest import Failure

CLASS_PREFIX = "partial_"


def with_damage(video: PlannedVideo, damage: IngestError) -> PlannedVideo:
    """The video, marked with what its probe found."""
    return _marked(video, damage.error_class, damage.message, [])


def as_kept(video: PlannedVideo, lost: Mapping[str, Sequence[int]], reason: Failure | None) -> PlannedVideo:
    """The video without the targets that were lost.

    Args:
        video: as planned.
        lost: indices of the targets that a segment lost, by its name.
        reason: the first failure of a segment; None if none failed.
    """
    if reason is None:
        return video
    kept_ns: list[int] = []
    lost_ns: list[int] = []
    position = 0
    for segment in video.segments:
        missing = set(lost.get(segment.name, ()))
        for index in range(len(segment.target_pts)):
            (lost_ns if index in missing else kept_ns).append(video.timestamps_ns[position + index])
        position += len(segment.target_pts)
    marked = _marked(video, reason.error_class, reason.message, lost_ns)
    return replace(marked, timestamps_ns=tuple(kept_ns))


def notice(video: PlannedVideo) -> Failure | None:
    """The failure row of a video of which a part is kept."""
    partial = video.probe.get("partial")
    if partial is None:
        return None
    num_lost, num_kept = len(partial["lost_ns"]), len(video.timestamps_ns)
    return Failure(
        stage=partial["stage"],
        id=video.source.id,
        source_uri=video.source.uri,
        error_class=CLASS_PREFIX + partial["class"],
        message=f"a part is kept: {num_kept} frames, {num_lost} are lost. {partial['reason']}",
    )


def nothing_kept(video: PlannedVideo) -> Failure:
    """The failure of a damaged video that has no frame which can be kept."""
    partial = video.probe["partial"]
    return Failure(
        stage=partial["stage"],
        id=video.source.id,
        source_uri=video.source.uri,
        error_class=partial["class"],
        message=partial["reason"],
    )


def _marked(video: PlannedVideo, error_class: str, message: str, lost_ns: list[int]) -> PlannedVideo:
    # What the probe says comes first: it is the cause.
    partial: dict[str, Any] = video.probe.get("partial") or {
        "class": error_class,
        "reason": message,
        "stage": "decode" if lost_ns else "probe",
    }
    return replace(video, probe={**video.probe, "partial": {**partial, "lost_ns": lost_ns}})
