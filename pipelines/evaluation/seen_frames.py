"""A few of the frames that a model was shown with a question, for people to look at.

    AskedQuestion ──a dataset's shard, a video file or a folder of pictures──> frames, evenly spread, with their times

Decoded again by the functions of the evaluation, so they are the same pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.evaluation.asked import AskedQuestion
from pipelines.evaluation.clips import JPEG_QUALITY, ShownClip, picture_files, plan_clip, read_jpeg
from pipelines.evaluation.decoding import UnreadableVideoError, frames_at
from pipelines.evaluation.plan import UNREADABLE
from pipelines.evaluation.questions import read_sample
from pipelines.storage import open_storage
from vamba.data.frames import decode_jpegs
from vamba.data.sampling import uniform_indices

if TYPE_CHECKING:
    import numpy as np

    from vamba.data.manifest import SampleRow


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenFrame:
    """time_s: in the video. pixels: uint8[H, W, 3]."""

    time_s: float
    pixels: np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """num_frames: that the model was shown in all. frames: a few of them, in order; none where `problem` says why."""

    num_frames: int
    frames: tuple[SeenFrame, ...]
    problem: str = ""


class FrameViewer:
    """Reads at most `count` frames for a question; what it read last is kept, as many questions are about one video."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._last: tuple[object, Seen] | None = None
        self._datasets: dict[str, dict[str, SampleRow]] = {}

    def frames_of(self, asked: AskedQuestion) -> Seen:
        """Evenly spread over those that were shown. What can't be read is said, never raised."""
        what = (asked.data, asked.shown, asked.shown_clip)
        if self._last is None or self._last[0] != what:
            self._last = (what, self._read(asked))
        return self._last[1]

    def _read(self, asked: AskedQuestion) -> Seen:
        clip = asked.shown_clip
        try:
            return self._of_sample(asked.data, asked.shown) if clip is None else self._of_clip(clip)
        except UNREADABLE as error:
            return Seen(num_frames=0, frames=(), problem=" ".join(str(error).split()) or type(error).__name__)

    def _of_clip(self, shown: ShownClip) -> Seen:
        if not shown.clip.exists:
            raise UnreadableVideoError(f"{shown.clip.path} is not there any more")
        if shown.clip.pictures_per_s:
            files = picture_files(shown)
            some = [files[index] for index in uniform_indices(self._count, len(files))]
            return _seen(len(files), ((time_s, decode_jpegs([read_jpeg(file)])[0]) for time_s, file in some))
        planned = plan_clip(shown)
        times_ns = planned.timestamps_ns
        frames = frames_at(planned, uniform_indices(self._count, len(times_ns)), JPEG_QUALITY)
        return _seen(len(times_ns), ((times_ns[index] / 1e9, pixels) for index, pixels in sorted(frames.items())))

    def _of_sample(self, data: str, name: str) -> Seen:
        from vamba.data.stored_frames import stored_frames

        if data not in self._datasets:
            from pipelines.manifest_io import read_manifest

            self._datasets[data] = {row.id: row for row in read_manifest(data).samples}
        row = self._datasets[data].get(name)
        if row is None:
            raise ValueError(f"the dataset {data} has no sample {name} any more")
        sample = read_sample(open_storage(data), row)
        frames = stored_frames(sample)
        chosen = uniform_indices(self._count, len(frames))
        times_s = [sample.timestamps_ns[index] / 1e9 for index in chosen]
        return _seen(len(frames), zip(times_s, frames.decode(chosen), strict=True))


def _seen(num_frames: int, frames: Iterable[tuple[float, np.ndarray]]) -> Seen:
    return Seen(num_frames=num_frames, frames=tuple(SeenFrame(time_s=time, pixels=pixels) for time, pixels in frames))
