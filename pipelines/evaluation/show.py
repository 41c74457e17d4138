"""Shows a model one video and asks everything about it: in the job's own process, or in a replica."""

from __future__ import annotations

import os
import time
from contextlib import closing
from dataclasses import replace

from pipelines.evaluation.answering import Answerer, Reply
from pipelines.evaluation.clips import ShownClip, clip_pixels
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plan import UNREADABLE, broken_video
from pipelines.evaluation.plan_types import Showing
from pipelines.evaluation.questions import BrokenVideo, read_sample
from pipelines.storage import open_storage
from vamba.data.stored_frames import stored_frames


def show(answerer: Answerer, config: EvaluationConfig, showing: Showing) -> Reply | BrokenVideo:
    """Read one video and ask its questions; an unreadable one is returned as such."""
    source, questions = showing.source, [question.text for question in showing.questions]
    try:
        if isinstance(source, ShownClip):
            return _show_clip(answerer, source, questions, showing.max_new_tokens, _num_decoders(config))
        sample = read_sample(open_storage(config.data), source)
        return answerer.answer(stored_frames(sample), questions, max_new_tokens=showing.max_new_tokens)
    except UNREADABLE as error:
        return broken_video(source, len(showing.questions), error)


def _show_clip(
    answerer: Answerer, shown: ShownClip, questions: list[str], max_new_tokens: int, num_decoders: int
) -> Reply:
    # The protocol's size of frames, the same for every clip of an evaluation.
    answerer.processing = replace(
        answerer.processing, shortest_edge=shown.frames.shortest_edge, longest_edge=shown.frames.longest_edge
    )
    started = time.monotonic()
    clip = clip_pixels(shown, num_processes=num_decoders)
    with closing(clip.pieces) as pieces:
        memory = answerer.look(pieces, clip.num_frames)
    encoded = time.monotonic()
    texts = answerer.ask(memory, questions, max_new_tokens=max_new_tokens)
    return Reply(
        texts=texts,
        num_frames=clip.num_frames,
        num_video_tokens=memory.num_tokens,
        backends=answerer.backends,
        encode_s=encoded - started,
        answer_s=time.monotonic() - encoded,
    )


def _num_decoders(config: EvaluationConfig) -> int:
    return config.num_decoders or max(1, (os.cpu_count() or 1) // config.num_replicas)
