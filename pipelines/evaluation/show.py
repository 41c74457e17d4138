"""Shows a model one video and asks everything about it: in the job's own process, or in a replica."""

from __future__ import annotations

import os
import time
from contextlib import closing

from pipelines.evaluation.answering import Answerer, Reply
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.decoding import stored_pixels
from pipelines.evaluation.plan import UNREADABLE, broken_video
from pipelines.evaluation.plan_types import Showing
from pipelines.evaluation.questions import BrokenVideo, read_sample
from pipelines.evaluation.shown_pixels import ShownPixels, open_cache, shown_pixels
from pipelines.storage import open_storage
from vamba.data.stored_frames import stored_frames


def show(answerer: Answerer, config: EvaluationConfig, showing: Showing) -> Reply | BrokenVideo:
    """Read one video and ask its questions; an unreadable one is returned as such."""
    started = time.monotonic()
    try:
        shown = _pixels(answerer, config, showing)
        with closing(shown.pieces) as pieces:
            answerer.processing = shown.processing
            memory = answerer.look(pieces, shown.num_frames, wish=config.wish)
        encoded = time.monotonic()
        questions = [question.text for question in showing.questions]
        size = config.batch_size or len(questions)
        texts: list[str] = []
        for start in range(0, len(questions), size):
            texts += answerer.ask(memory, questions[start : start + size], max_new_tokens=showing.max_new_tokens)
    except UNREADABLE as error:
        return broken_video(showing.source, len(showing.questions), error)
    return Reply(
        texts=tuple(texts),
        num_frames=shown.num_frames,
        num_video_tokens=memory.num_tokens,
        backends=answerer.backends,
        cache=shown.cache,
        encode_s=encoded - started,
        answer_s=time.monotonic() - encoded,
    )


def _pixels(answerer: Answerer, config: EvaluationConfig, showing: Showing) -> ShownPixels:
    source = showing.source
    if isinstance(source, ShownClip):
        return shown_pixels(
            source,
            answerer.processing,
            cache=open_cache(config.frame_cache_gb),
            device=answerer.device,
            num_processes=config.num_decoders or max(1, (os.cpu_count() or 1) // config.num_replicas),
        )
    frames = stored_frames(read_sample(open_storage(config.data), source))
    return ShownPixels(pieces=stored_pixels(frames), num_frames=len(frames), processing=answerer.processing, cache="")
