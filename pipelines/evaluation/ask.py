"""Questions about one video file: decode it as an ingest would, show it to a model, read the answers.

    file ──probe, plan──> segments ──decode, ahead──> pixels ──encode──> VideoMemory ──┬──> answers
    saved memory ─────────────────────────────────────────────────────────load─────────┘     └──> saved memory

The same functions choose and decode the frames as in `vamba ingest`, so a model sees what it was trained on. Decoding,
in processes of its own, and encoding run side by side, and what is between them is bounded.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pipelines.evaluation import confined
from pipelines.evaluation.decoding import UnreadableVideoError, decoded_pixels, frames_at
from pipelines.evaluation.why import Looked, looked, picture_format, write_picture
from pipelines.ingest.config import FrameStorage, IngestConfig
from vamba.data.sampling import FrameSampling
from vamba.ops.backends import Backends

if TYPE_CHECKING:
    import numpy as np

    from pipelines.evaluation.answering import Answerer, Said
    from pipelines.ingest.types import PlannedVideo
    from vamba.streaming.memory import VideoMemory
    from vamba.streaming.placement import Wish
    from vamba.streaming.saved_memory import SavedMemory

Step = Literal["read", "ask", "save"]
Progress = Callable[[Step, int, int], None]
"""(step, done, total): frames that are encoded ("ask"), bytes of a saved memory that are read or written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AskConfig:
    """video: path of a file; empty with a memory alone. questions: asked together, about one look at the video.

    model: directory, run or models:/ URI. max_new_tokens: longest answer.
    memory: a saved memory to ask; with a video, the video follows it. save: where to write what was seen.
    why: where to draw what the answers looked at.
    sampling, frames: which frames are read and how they are stored, as in an ingest; use what the model knows.
    kv, order, fp8: where what was seen lies and how, see `vamba.streaming.placement`. directory: of files when it is on
    disk, by default the system's for temporary ones.
    device: "cpu", "cuda", or "auto": a GPU where torch sees one. dtype: of the model's weights and activations.
    backends: implementations of scan, convolution and attention by name. num_processes: decoders; 0 means one per core.
    """

    model: str
    video: str = ""
    questions: tuple[str, ...] = ()
    memory: str = ""
    save: str = ""
    why: str = ""
    max_new_tokens: int = 64
    sampling: FrameSampling = field(default_factory=FrameSampling)
    frames: FrameStorage = field(default_factory=FrameStorage)
    kv: Literal["auto", "device", "host", "disk"] = "auto"
    order: Literal["auto", "chunk-major", "layer-major"] = "auto"
    fp8: bool = False
    directory: str = ""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    backends: Backends = field(default_factory=Backends)
    num_processes: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ValueError(f"`max_new_tokens` is {self.max_new_tokens}, but an answer needs at least 1.")
        if not self.video and not self.memory:
            raise ValueError("There is nothing to look at: name a video, or a saved memory with `--memory`.")
        if not self.questions and not self.save:
            raise ValueError("There is no question. Ask one, or name a file to `--save` what was seen.")
        if not all(question.strip() for question in self.questions):
            raise ValueError("The question is empty.")
        if self.why:
            picture_format(Path(self.why))
            if not self.questions:
                raise ValueError("--why draws what an answer looked at: ask a question.")

    @property
    def wish(self) -> Wish:
        """Where what is seen is to lie."""
        from vamba.streaming.placement import Wish

        return Wish(kv=self.kv, order=self.order, fp8=self.fp8, directory=self.directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A question and its answer."""

    question: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AskReply:
    """The answers, and what they took.

    text: of the first question. duration_s: of the video. placement: where what was seen lies, and why there.
    saved: the file it was written to. why: the picture of what was looked at, which `looked` has in numbers.
    decode_s: waiting for frames; encode_s: the rest of looking, or reading a saved memory; answer_s, load_s (the
    model), save_s: seconds spent.
    """

    text: str
    answers: tuple[Answered, ...]
    video: str
    model: str
    duration_s: float
    num_frames: int
    num_video_tokens: int
    placement: str
    saved: str
    why: str
    looked: tuple[Looked, ...]
    backends: str
    load_s: float
    decode_s: float
    encode_s: float
    answer_s: float
    save_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """notes: of what was shown, as they are saved beside it."""

    memory: VideoMemory
    notes: dict[str, Any]
    decode_s: float
    encode_s: float


def plan_ask(config: AskConfig) -> PlannedVideo:
    """Probe the file and choose its frames. Raises `UnreadableVideoError`."""
    from pipelines.ingest.plan import plan_video
    from pipelines.ingest.types import IngestError, VideoSource

    path = Path(config.video).expanduser().absolute()
    settings = IngestConfig(sources=(str(path),), out="-", sampling=config.sampling, frames=config.frames)
    source = VideoSource(id="video", uri=str(path), size_bytes=-1, mtime_ns=0, split="test", conversations=())
    try:
        return plan_video(source, confined.probe(source.location), settings)
    except IngestError as error:
        raise UnreadableVideoError(f"{path} can't be read as a video ({error.error_class}): {error.message}") from error


def ask(config: AskConfig, progress: Progress = lambda step, done, total: None) -> AskReply:
    """Answer the questions. `progress` is told of every step that takes long.

    Raises `UnreadableVideoError`, or ValueError for a model or a memory that can't be found, loaded or used together.
    """
    from pipelines.evaluation.answering import Answerer
    from pipelines.registry.models import resolve_model

    model = resolve_model(config.model)
    planned = plan_ask(config) if config.video else None
    _check_files(config)
    started = time.monotonic()
    answerer = Answerer(model.directory, device=config.device, dtype=config.dtype, backends=config.backends)
    loaded = time.monotonic()
    seen = _look(config, planned, answerer, progress)
    looked = time.monotonic()
    if config.why and len(seen.memory.times_ns) != seen.memory.media.num_pairs:
        raise ValueError(
            "--why needs to know when each frame is shown, and this memory was saved without; make it anew."
        )
    if config.save:
        _save(config, seen, answerer, progress)
    saved = time.monotonic()
    said = answerer.say(seen.memory, config.questions, max_new_tokens=config.max_new_tokens)
    texts = [one.text for one in said]
    answered = time.monotonic()
    looked_at = _why(config, planned, seen, answerer, said) if config.why else ()
    placement = seen.memory.placement
    return AskReply(
        text=texts[0] if texts else "",
        answers=tuple(Answered(question=q, text=text) for q, text in zip(config.questions, texts, strict=True)),
        video=config.video or str(seen.notes["video"]),
        model=f"{model.ref} ({model.directory})",
        duration_s=seen.notes["duration_ns"] / 1e9,
        num_frames=seen.notes["num_frames"],
        num_video_tokens=seen.memory.num_tokens,
        placement=f"{placement.order}, {placement.kv}{', fp8' if placement.fp8 else ''}: {placement.reason}",
        saved=config.save,
        why=config.why,
        looked=looked_at,
        backends=answerer.backends,
        load_s=loaded - started,
        decode_s=seen.decode_s,
        encode_s=seen.encode_s,
        answer_s=answered - saved,
        save_s=saved - looked,
    )


def _check_files(config: AskConfig) -> None:
    """ValueError for files that can't be read or written, before anything takes long."""
    from vamba.streaming.saved_memory import notes_of

    if config.memory:
        notes_of(Path(config.memory).expanduser())
    if not config.save:
        return
    target = Path(config.save).expanduser().absolute()
    if target.is_dir():
        raise ValueError(f"--save {config.save}: that is a directory; name a file in it.")
    if not target.parent.is_dir():
        raise ValueError(f"--save {config.save}: its directory does not exist; make it first.")
    try:
        tempfile.TemporaryFile(dir=target.parent).close()
    except OSError as error:
        raise ValueError(f"--save {config.save}: its directory can't be written to ({error.strerror}).") from error


def read_questions(path: Path) -> list[str]:
    """The questions of a text file, apart by empty lines, so that options can stand on lines of their own."""
    if not path.is_file():
        raise ValueError(f"There is no file of questions at {path}.")
    found = [part.strip() for part in path.read_text(encoding="utf-8").replace("\r\n", "\n").split("\n\n")]
    questions = [part for part in found if part]
    if not questions:
        raise ValueError(f"{path} holds no question; write one or several, with an empty line between them.")
    return questions


def _look(config: AskConfig, planned: PlannedVideo | None, answerer: Answerer, progress: Progress) -> _Seen:
    from vamba.data.frames import num_frame_pairs
    from vamba.streaming.saved_memory import load

    started = time.monotonic()
    num_frames, waited_s = len(planned.timestamps_ns) if planned else 0, 0.0
    num_pairs = num_frame_pairs(num_frames, answerer.processing) if planned else 0
    before: VideoMemory | None = None
    earlier: dict[str, Any] = {"video": "", "duration_ns": 0, "num_frames": 0}
    if config.memory:
        path, shown = Path(config.memory).expanduser(), partial(progress, "read")
        saved = load(path, answerer.model, config.wish, more_pairs=num_pairs, shown=shown)
        before, earlier = saved.memory, _told(saved, config.memory)
    if planned is None:
        assert before is not None
        return _Seen(memory=before, notes=earlier, decode_s=0.0, encode_s=time.monotonic() - started)
    num_encoded = min(num_frames, answerer.processing.temporal_patch_size * num_pairs)  # an odd last one is left out
    times_ns = [earlier["duration_ns"] + time_ns for time_ns in planned.timestamps_ns]

    def timed() -> Iterator[np.ndarray]:
        nonlocal waited_s
        pixels = decoded_pixels(planned, config.frames.jpeg_quality, config.num_processes)
        with closing(pixels):
            while True:
                asked = time.monotonic()
                piece = next(pixels, None)
                waited_s += time.monotonic() - asked
                if piece is None:
                    return
                yield piece

    memory = answerer.look(
        timed(),
        num_frames,
        wish=config.wish,
        after=before,
        times_ns=() if before and not before.times_ns else times_ns,
        shown=lambda done: progress("ask", done, num_encoded),
    )
    notes: dict[str, Any] = {
        "video": ", ".join(filter(None, (earlier["video"], config.video))),
        "duration_ns": earlier["duration_ns"] + planned.duration_ns,
        "num_frames": earlier["num_frames"] + num_frames,
    }
    if before is None:
        path = Path(config.video).expanduser().absolute()
        notes |= {"video_path": str(path), "video_bytes": path.stat().st_size}
    return _Seen(memory=memory, notes=notes, decode_s=waited_s, encode_s=time.monotonic() - started - waited_s)


def _told(saved: SavedMemory, path: str) -> dict[str, Any]:
    """The notes beside a memory; what it says itself, where something else than this command saved it."""
    times_ns = saved.memory.times_ns
    last_ns = times_ns[-1] - times_ns[-2] if len(times_ns) > 1 else 10**9
    known: dict[str, Any] = {
        "video": path,
        "duration_ns": times_ns[-1] + last_ns if times_ns else 0,
        "num_frames": 2 * saved.memory.media.num_pairs,
    }
    return known | {key: value for key, value in saved.notes.items() if isinstance(value, type(known.get(key, value)))}


def _save(config: AskConfig, seen: _Seen, answerer: Answerer, progress: Progress) -> None:
    from vamba.streaming.saved_memory import save

    path = Path(config.save).expanduser().absolute()
    save(seen.memory, path, answerer.model, notes=seen.notes, shown=partial(progress, "save"))


def _why(
    config: AskConfig, planned: PlannedVideo | None, seen: _Seen, answerer: Answerer, said: Sequence[Said]
) -> tuple[Looked, ...]:
    """What every answer looked at, drawn as well. The frames are those of the video at hand: none of what was saved
    earlier, unless its file is where it was and as large."""
    memory = seen.memory
    times_s = [time_ns / 1e9 for time_ns in memory.times_ns]
    looks = tuple(
        looked(question, one.text, times_s, answerer.weigh(memory, one))
        for question, one in zip(config.questions, said, strict=True)
    )
    planned = planned or _plan_again(config, seen)
    earlier_ns = seen.notes["duration_ns"] - planned.duration_ns if planned else 0
    numbers = {} if planned is None else {earlier_ns + at: n for n, at in enumerate(planned.timestamps_ns)}
    wanted = {peak.pair: memory.times_ns[peak.pair] for one in looks for peak in one.peaks}
    places = {pair: numbers[at] for pair, at in wanted.items() if at in numbers}
    frames = {} if planned is None else frames_at(planned, places.values(), config.frames.jpeg_quality)
    write_picture(looks, {pair: frames[number] for pair, number in places.items()}, Path(config.why))
    return looks


def _plan_again(config: AskConfig, seen: _Seen) -> PlannedVideo | None:
    """The file that was encoded, where it still is what it was; None elsewhere, and for a memory of several files."""
    path = Path(str(seen.notes.get("video_path", "")))
    if not path.is_file() or path.stat().st_size != seen.notes.get("video_bytes"):
        return None
    planned = plan_ask(replace(config, video=str(path)))
    return planned if planned.duration_ns == seen.notes["duration_ns"] else None
