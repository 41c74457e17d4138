"""Shows a model one video and asks everything about it: in the job's own process, or in a replica."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.evaluation.clips import ShownClip, clip_frames
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plan import UNREADABLE, Showing, broken_video
from pipelines.evaluation.questions import BrokenVideo, read_sample
from pipelines.storage import open_storage
from vamba.data.stored_frames import stored_frames

if TYPE_CHECKING:
    from pipelines.evaluation.answering import Answerer, Reply


def show(answerer: Answerer, config: EvaluationConfig, showing: Showing) -> Reply | BrokenVideo:
    """Read one video and ask its questions; an unreadable one is returned as such."""
    source, questions = showing.source, [question.text for question in showing.questions]
    try:
        if isinstance(source, ShownClip):
            # The protocol's, and the same for every clip of an evaluation.
            answerer.processing = replace(
                answerer.processing,
                shortest_edge=source.frames.shortest_edge,
                longest_edge=source.frames.longest_edge,
            )
            frames = clip_frames(source, num_processes=config.num_decoders or _free_cores(config))
            return answerer.answer(frames, questions, max_new_tokens=showing.max_new_tokens)
        sample = read_sample(open_storage(config.data), source)
        return answerer.answer(stored_frames(sample), questions, max_new_tokens=showing.max_new_tokens)
    except UNREADABLE as error:
        return broken_video(source, len(showing.questions), error)


def _free_cores(config: EvaluationConfig) -> int:
    return max(1, (os.cpu_count() or 1) // config.num_replicas)
