"""The frames of a clip that a benchmark shows: a video file, a part of one, or a folder of pictures.

    ShownClip ──probe, plan──> frame numbers ──decode (as in an ingest), ahead──> pixels, of the video's own size

Frames are chosen by number, evenly over what is shown, as the paper's scripts do; the model resizes them by the
protocol's rule. A part from start to end begins at the frame nearest to its start, as MVBench defines it.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.evaluation import confined
from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.decoding import UnreadableVideoError, decoded_pixels, stored_pixels
from pipelines.evaluation.protocols.recipe import FrameRule
from vamba.data.sampling import FrameSampling, uniform_indices

if TYPE_CHECKING:
    import numpy as np

    from pipelines.ingest.types import PlannedVideo, ProbedVideo

JPEG_QUALITY = 95
_ANY_EDGE = 16384  # pixels; no stored frame is scaled down
_PICTURES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownClip:
    """A clip, named and with the frames to show."""

    id: str
    clip: Clip
    frames: FrameRule

    @property
    def num_frames(self) -> int:
        """At most; a short video has fewer."""
        return self.frames.num_frames

    @property
    def source_uri(self) -> str:
        return self.clip.path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClipPixels:
    """pieces: uint8[N, H, W, 3] of consecutive frames; to be closed. num_frames: of all of them."""

    pieces: Generator[np.ndarray, None, None]
    num_frames: int


def clip_pixels(shown: ShownClip, *, num_processes: int) -> ClipPixels:
    """The frames of a clip, decoded as they are asked for. num_processes: 0 means one per core.

    Raises UnreadableVideoError, or OSError for a folder that can't be read; a piece may raise the same.
    """
    clip = shown.clip
    if not clip.exists:
        raise UnreadableVideoError(f"there is no {'folder' if clip.pictures_per_s else 'file'} {clip.path}")
    if clip.pictures_per_s:
        files = [read_jpeg(file) for _, file in picture_files(shown)]
        return ClipPixels(pieces=_decoded(files), num_frames=len(files))
    planned = plan_clip(shown)
    pieces = decoded_pixels(planned, JPEG_QUALITY, num_processes)
    return ClipPixels(pieces=pieces, num_frames=len(planned.timestamps_ns))


def part_of(total: int, clip: Clip, frames_per_s: float, first_number: int = 0) -> range:
    """Frame indices of the part that a clip shows. first_number: how its frames are counted, as in file names.

    Raises UnreadableVideoError where the part lies behind the end.
    """
    start, end = 0, total
    if clip.start_s is not None:
        start = max(first_number, round(clip.start_s * frames_per_s)) - first_number
    if clip.end_s is not None:
        end = min(round(clip.end_s * frames_per_s) - first_number, total - 1) + 1
    if start >= end:
        raise UnreadableVideoError(
            f"{clip.path} has {total} frames, {frames_per_s:g} a second, and none from {clip.start_s} to {clip.end_s} s"
        )
    return range(start, end)


def plan_clip(shown: ShownClip) -> PlannedVideo:
    """Which frames of a video file are shown, and how they are decoded. Raises UnreadableVideoError."""
    from pipelines.ingest.config import FrameStorage, IngestConfig
    from pipelines.ingest.plan import plan_video
    from pipelines.ingest.types import IngestError, VideoSource

    path = str(Path(shown.clip.path).absolute())  # the decoder process has a working directory of its own
    settings = IngestConfig(
        sources=(path,),
        out="-",
        sampling=FrameSampling(policy="uniform", num_frames=shown.frames.num_frames),
        frames=FrameStorage(long_edge=_ANY_EDGE, short_edge=_ANY_EDGE, jpeg_quality=JPEG_QUALITY),
    )
    source = VideoSource(id="video", uri=path, size_bytes=-1, mtime_ns=0, split="test", conversations=())
    try:
        return plan_video(source, _cut(confined.probe(source.location), shown.clip), settings)
    except IngestError as error:
        raise UnreadableVideoError(f"{path} can't be read as a video ({error.error_class}): {error.message}") from error


def _cut(probe: ProbedVideo, clip: Clip) -> ProbedVideo:
    """The video as if it showed nothing but the part."""
    import numpy as np

    if clip.start_s is None and clip.end_s is None:
        return probe
    times = np.unique(probe.pts[probe.is_shown])
    part = part_of(len(times), clip, float(probe.average_fps))
    inside = (probe.pts >= times[part.start]) & (probe.pts <= times[part.stop - 1])
    return replace(probe, is_shown=probe.is_shown & inside)


def picture_files(shown: ShownClip) -> list[tuple[float, Path]]:
    """(seconds from the beginning, file) of the pictures that are shown of a folder. Raises UnreadableVideoError."""
    files = sorted(path for path in Path(shown.clip.path).iterdir() if path.suffix.lower() in _PICTURES)
    if not files:
        raise UnreadableVideoError(f"the folder {shown.clip.path} holds no pictures")
    part = part_of(len(files), shown.clip, shown.clip.pictures_per_s, first_number=1)
    rate = shown.clip.pictures_per_s
    chosen = [part[index] for index in uniform_indices(shown.frames.num_frames, len(part))]
    return [(index / rate, files[index]) for index in chosen]


def _decoded(files: list[bytes]) -> Generator[np.ndarray, None, None]:
    from vamba.data.stored_frames import JpegFrames

    yield from stored_pixels(JpegFrames(files))


def read_jpeg(file: Path) -> bytes:
    """A picture as a JPEG file."""
    if file.suffix.lower() != ".png":
        return file.read_bytes()
    import numpy as np
    import simplejpeg
    from PIL import Image

    with Image.open(file, formats=("PNG", "JPEG")) as picture:
        pixels = np.ascontiguousarray(picture.convert("RGB"))
    return bytes(simplejpeg.encode_jpeg(pixels, quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"))
