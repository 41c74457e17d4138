"""The shuffled-video control: every question is asked, and asked about another video than its own.

A model that answers from the video is then at chance; one that answers from the text alone scores as before. Two things
make the control mean that. Videos are chosen without regard to the answers (choosing only videos with *other* answers
would push a looking model below chance). And the questions of one video are spread over several others, because a
dataset may hold a single hour-long video: asked all against one other video, its dozens of questions would share that
video's few answers, and their mean would be luck. Among the other videos those of the nearest length are preferred,
so that the model's input stays of the kind it would have seen.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import replace

from pipelines.evaluation.questions import Question, VideoQuestions


def assign_own(videos: Sequence[VideoQuestions]) -> dict[str, list[Question]]:
    """Every question asked about its own video: {id of the video shown: questions}."""
    return {video.row.id: list(video.questions) for video in videos if video.questions}


def assign_shuffled(
    videos: Sequence[VideoQuestions], *, seed: int, num_control_videos: int, repeats: int = 1
) -> dict[str, list[Question]]:
    """Every question asked about `repeats` other videos: {id of the video shown: questions}. Deterministic.

    With fewer other videos than that, about all of them. The second and later askings carry "#2", "#3" … in their key.

    Raises ValueError when there is no other video to show.
    """
    if len(videos) < 2:
        raise ValueError(
            "The shuffled-video control needs at least two readable videos in the split, and there are "
            f"{len(videos)}: evaluate a larger split, or leave the control out."
        )
    shown: dict[str, list[Question]] = {}
    for video in videos:
        if not video.questions:
            continue
        others = _nearest(video, videos, num_control_videos, seed)
        for index, question in enumerate(sorted(video.questions, key=lambda item: _order(seed, item.key))):
            for time in range(min(repeats, len(others))):
                asked = question if time == 0 else replace(question, key=f"{question.key}#{time + 1}")
                shown.setdefault(others[(index + time) % len(others)], []).append(asked)
    return shown


def _nearest(video: VideoQuestions, videos: Sequence[VideoQuestions], count: int, seed: int) -> list[str]:
    """Ids of the `count` videos nearest in length, in a seeded order; equal lengths are drawn, not taken by name."""
    length = math.log(max(video.row.duration_ns, 1))
    others = [other.row for other in videos if other.row.id != video.row.id]
    others.sort(
        key=lambda row: (
            abs(math.log(max(row.duration_ns, 1)) - length),
            _order(seed, f"{video.row.id} {row.id}"),
        )
    )
    return sorted((row.id for row in others[:count]), key=lambda name: _order(seed, f"{name} {video.row.id}"))


def _order(seed: int, text: str) -> str:
    return hashlib.sha256(f"{seed} {text}".encode()).hexdigest()
