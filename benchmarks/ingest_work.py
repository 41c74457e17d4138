"""The pieces of an ingest's work that the benchmarks share: films to work on, and the stages without Ray."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import ffmpeg

from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.pack import TarWriter
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import PlannedVideo, VideoSource
from vamba.data.sample import frame_name


def default_film(directory: Path, size: str = "640x360", seconds: int = 300, **options: object) -> Path:
    """H.264 at 30 frames a second, with x264's own settings but for the options."""
    path = directory / f"{size}-{seconds}s{''.join(f'-{key}{value}' for key, value in options.items())}.mp4"
    picture = ffmpeg.input(f"testsrc2=size={size}:rate=30", f="lavfi", t=seconds)
    output = picture.output(str(path), vcodec="libx264", pix_fmt="yuv420p", **options)
    output.run(cmd=ffmpeg_binary(), quiet=True)
    return path


def repeat(film: Path, seconds: float) -> Path:
    """The film again and again for so long, without encoding it."""
    path = film.with_name(f"{seconds:g}s-of-{film.name}")
    source = ffmpeg.input(str(film), stream_loop=-1, t=seconds)
    source.output(str(path), c="copy").run(cmd=ffmpeg_binary(), quiet=True)
    return path


def source_of(path: Path) -> VideoSource:
    """A file as an ingest lists it."""
    size_bytes = path.stat().st_size
    return VideoSource(id="v", uri=str(path), size_bytes=size_bytes, mtime_ns=0, split=None, conversations=())


def plan_of(path: Path, config: IngestConfig) -> PlannedVideo:
    """A file probed and planned in this process."""
    return plan_video(source_of(path), probe_video(str(path)), config)


def plan_with(decoder: DecoderProcess, source: VideoSource, config: IngestConfig) -> PlannedVideo:
    """A file probed in a decoder process."""
    return plan_video(source, decoder.probe(source.location, config.limits, limit_s=600), config)


def write_tar(path: Path, video: PlannedVideo, segments: Iterable[list[bytes]]) -> tuple[int, str]:
    """A tar of the frames: (number of frames, sha256)."""
    num_frames = 0
    with open(path, "wb") as file:
        writer = TarWriter(file)
        for frames in segments:
            for frame in frames:
                writer.add(frame_name(video.source.id, num_frames), frame)
                num_frames += 1
        return num_frames, writer.finish()
