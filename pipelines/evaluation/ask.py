"""One question about one video file: decode it as an ingest would, show it to a model, read the answer.

    file ──probe, plan──> segments ──decode (one process per core)──> JPEG frames ──Answerer──> text

The same functions choose and decode the frames as in `vamba ingest`, so a model sees what it was trained on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pipelines.ingest.config import FrameStorage, IngestConfig
from vamba.data.sampling import FrameSampling
from vamba.ops.backends import Backends

if TYPE_CHECKING:
    from pipelines.ingest.types import DecodeRequest, PlannedVideo


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig:
    """video: path of a file. model: directory, run or models:/ URI. max_new_tokens: longest answer.

    sampling, frames: which frames are read and how they are stored, as in an ingest; use what the model knows.
    device: "cpu", "cuda", or "auto": a GPU where torch sees one.
    backends: implementations of scan, convolution and attention by name. num_processes: decoders; 0 means one per core.
    """

    video: str
    question: str
    model: str
    max_new_tokens: int = 64
    sampling: FrameSampling = field(default_factory=FrameSampling)
    frames: FrameStorage = field(default_factory=FrameStorage)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    backends: Backends = field(default_factory=Backends)
    num_processes: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` is {self.max_new_tokens}, but an answer needs at least 1.")
        if not self.question.strip():
            raise ValueError("The question is empty.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReply:
    """The answer, and what it took. duration_s: of the video. decode_s, encode_s, answer_s, load_s: seconds spent."""

    text: str
    video: str
    model: str
    duration_s: float
    num_frames: int
    num_video_tokens: int
    backends: str
    load_s: float
    decode_s: float
    encode_s: float
    answer_s: float


class UnreadableVideoError(ValueError):
    """The file can't be decoded; the message says why."""


def plan_ask(config: AskConfig) -> PlannedVideo:
    """Probe the file and choose its frames. Raises `UnreadableVideoError`."""
    from pipelines.ingest.plan import plan_video
    from pipelines.ingest.probe import probe_video
    from pipelines.ingest.types import IngestError, VideoSource

    path = Path(config.video).expanduser().absolute()
    settings = IngestConfig(sources=(str(path),), out="-", sampling=config.sampling, frames=config.frames)
    source = VideoSource(id="video", uri=str(path), size_bytes=-1, mtime_ns=0, split="test", conversations=())
    try:
        return plan_video(source, probe_video(source.location), settings)
    except IngestError as error:
        raise UnreadableVideoError(f"{path} can't be read as a video ({error.error_class}): {error.message}") from error


def ask(config: AskConfig, progress: Callable[[int, int], None] | None = None) -> AskReply:
    """Answer the question. `progress` is called with decoded and planned segments.

    Raises `UnreadableVideoError`, or ValueError for a model that can't be found or loaded.
    """
    from pipelines.evaluation.answering import Answerer
    from pipelines.registry.models import resolve_model
    from vamba.data.stored_frames import JpegFrames

    model = resolve_model(config.model)
    started = time.monotonic()
    planned = plan_ask(config)
    frames = _decode(planned, config, progress)
    decoded = time.monotonic()
    answerer = Answerer(model.directory, device=config.device, backends=config.backends)
    loaded = time.monotonic()
    reply = answerer.answer(JpegFrames(frames), [config.question], max_new_tokens=config.max_new_tokens)
    return AskReply(
        text=reply.texts[0],
        video=config.video,
        model=f"{model.ref} ({model.directory})",
        duration_s=planned.duration_ns / 1e9,
        num_frames=len(frames),
        num_video_tokens=reply.num_video_tokens,
        backends=reply.backends,
        load_s=loaded - decoded,
        decode_s=decoded - started,
        encode_s=reply.encode_s,
        answer_s=reply.answer_s,
    )


def _decode(planned: PlannedVideo, config: AskConfig, progress: Callable[[int, int], None] | None) -> list[bytes]:
    from pipelines.ingest.requests import requests_of

    requests = requests_of(planned, config.frames.jpeg_quality)
    if planned.is_counted:
        from pipelines.ingest.counted import decode_counted

        return [frame for request in requests for frame in decode_counted(request)]
    num_processes = min(config.num_processes or os.cpu_count() or 1, len(requests))
    if num_processes == 1:
        return [frame for request in requests for frame in _decode_request(request)]
    frames: list[bytes] = []
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        for done, part in enumerate(pool.map(_decode_request, requests), start=1):
            frames += part
            if progress is not None:
                progress(done, len(requests))
    return frames


def _decode_request(request: DecodeRequest) -> list[bytes]:
    """One segment, the slow way where the fast one fails, as in an ingest."""
    from pipelines.ingest.decode import decode_segment, decode_sequentially
    from pipelines.ingest.types import IngestError

    try:
        return decode_segment(request)
    except IngestError:
        try:
            return decode_sequentially(request)
        except IngestError as error:
            raise UnreadableVideoError(
                f"{request.uri} can't be decoded ({error.error_class}): {error.message}"
            ) from error
