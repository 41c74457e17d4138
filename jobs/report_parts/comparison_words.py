"""What the tables of a comparison say, on a terminal and on a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipelines.evaluation.comparison import Changed, GroupDifference


def interval(group: GroupDifference) -> str:
    """ "-1.2% to +3.4%", or why there is none."""
    if group.low is None or group.high is None:
        return "none: one video"
    return f"{group.low:+.1%} to {group.high:+.1%}"


def time_of(item: Changed) -> str:
    """The time that is asked about where it is published, else the part that was shown, else how long the video is."""
    from pipelines.evaluation.why import clock

    if item.asked is not None and item.asked.time:
        return item.asked.time
    clip = item.asked.clip if item.asked else None
    if clip is not None and (clip.start_s is not None or clip.end_s is not None):
        return f"{clock(clip.start_s or 0.0)} to {'its end' if clip.end_s is None else clock(clip.end_s)}"
    return f"{clock(item.duration_s)} long" if item.duration_s else ""
