"""``VideoPlan`` → an H.264 file with sound: pictures are drawn frame by frame and piped into ffmpeg."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ffmpeg
import psutil

from pipelines.evaluation.synthetic.draw import Planes, card, pan
from pipelines.evaluation.synthetic.haystack import Haystack
from pipelines.evaluation.synthetic.video_plan import VideoPlan
from pipelines.ffmpeg import ffmpeg_binary

BT709 = {"colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709", "color_range": "tv"}


def pictures(plan: VideoPlan, config: Haystack) -> Iterator[Planes]:
    """The ``duration_s * fps`` pictures of a video, in order."""
    size = (config.width, config.height)
    on_card = {}
    for spec in plan.cards:
        drawn = card(spec, *size)
        for frame in range(spec.start_s * config.fps, (spec.start_s + config.card_s) * config.fps):
            on_card[frame] = drawn
    scenes = [*plan.scenes, None]
    for scene, following in zip(plan.scenes, scenes[1:], strict=True):
        first = scene.start_s * config.fps
        end = min(following.start_s if following else plan.duration_s, plan.duration_s) * config.fps
        for frame in range(first, end):
            yield on_card.get(frame) or pan(scene, frame - first, *size)


def render_tone(path: Path, seconds: int = 60) -> Path:
    """A quiet tone as AAC, encoded once and looped under every video: sound costs as much CPU as the pictures."""
    tone = ffmpeg.input("sine=frequency=220:sample_rate=16000", f="lavfi", t=seconds)
    stream = ffmpeg.output(tone, str(path), format="mp4", acodec="aac", audio_bitrate="24k")
    return _run(stream, path, path, iter(()))


def render(plan: VideoPlan, config: Haystack, path: Path, tone: Path) -> Path:
    """Write one video with the sound of ``tone``; the file appears under its name only when it is complete.

    Raises:
        RuntimeError: ffmpeg failed; the message ends with its last lines.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    picture = ffmpeg.input(
        "pipe:", format="rawvideo", pix_fmt="yuv420p", s=f"{config.width}x{config.height}", r=config.fps
    )
    sound = ffmpeg.input(str(tone), stream_loop=-1)
    stream = ffmpeg.output(
        picture.video, sound.audio, str(partial), format="mp4", t=plan.duration_s, movflags="+faststart",
        vcodec="libx264", preset="superfast", crf=26, threads=1, acodec="copy", **BT709,
    )  # fmt: skip
    return _run(stream, partial, path, (planes.tobytes() for planes in pictures(plan, config)))


def remove_partial(directory: Path) -> None:
    """Remove what killed processes had written of videos below ``directory``."""
    for path in directory.glob("*/.*.mp4.*"):
        pid = path.suffix[1:]
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            path.unlink(missing_ok=True)


def _run(stream: Any, written: Path, path: Path, raw: Iterator[bytes]) -> Path:
    command = ffmpeg.compile(stream.global_args("-hide_banner", "-loglevel", "error", "-y"), cmd=ffmpeg_binary())
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # ffmpeg has ended early: its exit code and its words say why
            for piece in raw:
                process.stdin.write(piece)
            process.stdin.close()
        code = process.wait()
        errors.seek(0)
        message = errors.read().decode(errors="replace").strip()
    if code:
        written.unlink(missing_ok=True)
        raise RuntimeError(f"ffmpeg could not encode {path.name} (exit {code}): {message[-500:]}")
    written.replace(path)
    return path
