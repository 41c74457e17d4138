"""video2dataset: its frame subsampler, which stores a video of 1 fps (`--decoder`: its loader's decoder, arrays)."""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import subprocess
import sys
import tempfile
import types
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from measured import number_of, report

# The package imports everything that it could ever do; none of these is on the way to a frame.
for unused in sys.argv[2].split(",") if len(sys.argv) > 2 and sys.argv[2] else []:
    sys.modules[unused] = types.ModuleType(unused)
    sys.modules[unused].__spec__ = importlib.machinery.ModuleSpec(unused, None)

film = Path(sys.argv[1])


def subsample(data: bytes) -> bytes:
    from video2dataset.subsamplers.frame_subsampler import FrameSubsampler

    streams, _, error = FrameSubsampler(frame_rate=1)({"video": [data]}, None)
    if error:
        raise RuntimeError(error)
    return streams["video"][0]


def numbers_of_video(data: bytes) -> list[int]:
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(data)
        file.flush()
        raw = subprocess.run(
            [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", file.name, "-fps_mode", "passthrough"]
            + ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"],
            check=True,
            stdout=subprocess.PIPE,
        ).stdout
    return [number_of(frame) for frame in np.frombuffer(raw, np.uint8).reshape(-1, 360, 640, 3)]


def decode(data: bytes) -> list:
    from video2dataset.dataloader.video_decode import VideoDecorder

    return VideoDecorder(fps=1)("film.mp4", data)[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "ffmpeg").symlink_to(imageio_ffmpeg.get_ffmpeg_exe())  # it calls `ffmpeg`
        os.environ["PATH"] = name + os.pathsep + os.environ["PATH"]
        with contextlib.redirect_stdout(sys.stderr):
            import video2dataset.subsamplers.frame_subsampler  # noqa: F401
        data = film.read_bytes
        if "--decoder" in sys.argv:
            report(lambda: decode(data()), lambda frames: map(number_of, frames))
        else:
            report(lambda: subsample(data()), numbers_of_video)


main()
