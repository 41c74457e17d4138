"""What storing frames as JPEG or as H.264 costs and keeps: bytes, error, CPU to encode, CPU to decode in two orders.

    python -m benchmarks.store [LABEL=FILE…] [--fps 1] [--rounds 3] [--out FILE]

The frames of each film are chosen, scaled and turned as an ingest does; they are the reference. Every setting is then
encoded and decoded by the functions that an ingest and a reader use, one setting after the other in each round; CPU is
of this process, medians over the rounds. "Sequential" decodes all frames, "random" draws one frame in sixteen (two at
the least) from all over the film, as a reader with a limit does, and is per frame that it got. Without files, two
films are made: a test picture (flat areas, sharp edges) and the same with strong grain.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np
import simplejpeg

from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.encode import upright_rgb
from pipelines.ingest.h264 import encode_groups, to_yuv420p, write_mp4
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.types import VideoSource
from vamba.data.frames import decode_jpegs
from vamba.data.h264 import decode_h264
from vamba.data.sampling import FrameSampling

JPEG_QUALITIES = (75, 85, 95)
CRFS = (18, 23, 28)
GOP_FRAMES = 8
LUMA = np.array([0.299, 0.587, 0.114], np.float32)
MEMBER_BYTES = 512 + 256  # tar header, and padding on average


def make_films(folder: Path) -> dict[str, Path]:
    """The two default films, a minute each."""
    films = {}
    for name, grain in (("test picture", ""), ("test picture with grain", ",noise=alls=40:allf=t")):
        path = folder / f"{len(films)}.mp4"
        source = ffmpeg.input(f"testsrc2=size=640x360:rate=10:duration=60{grain}", f="lavfi")
        source.output(str(path), vcodec="libx264", pix_fmt="yuv420p", crf=16).run(cmd=ffmpeg_binary(), quiet=True)
        films[name] = path
    return films


def reference(path: Path, fps: float) -> np.ndarray:
    """The frames that an ingest would store, before they are stored: uint8[N, H, W, 3]."""
    config = IngestConfig(sources=("-",), out="-", sampling=FrameSampling(fps=fps))
    source = VideoSource(id="v", uri=str(path), size_bytes=-1, mtime_ns=0, split=None, conversations=())
    plan = plan_video(source, probe_video(str(path)), config)
    targets = {pts for segment in plan.segments for pts in segment.target_pts}
    size = {"width": plan.width, "height": plan.height, "orientation": plan.orientation}
    with av.open(str(path)) as container:
        frames = container.decode(container.streams[plan.stream_index])  # type: ignore[call-overload]
        return np.stack([upright_rgb(frame, **size) for frame in frames if frame.pts in targets])


def cpu_ms(work: Callable[[], Any]) -> tuple[float, Any]:
    """(CPU of this process, what the work gave)."""
    before = time.process_time()
    result = work()
    return (time.process_time() - before) * 1e3, result


def encode_jpeg(frames: np.ndarray, quality: int) -> list[bytes]:
    return [simplejpeg.encode_jpeg(frame, quality=quality, colorsubsampling="420") for frame in frames]


def encode_h264(frames: np.ndarray, crf: int, path: Path) -> bytes:
    height, width = frames.shape[1:3]
    pictures = [to_yuv420p(frame) for frame in frames]
    units = encode_groups(pictures, width=width, height=height, gop_frames=GOP_FRAMES, crf=crf)
    times = [number * 10**9 for number in range(len(frames))]
    write_mp4(path, units, times, times[-1] + 10**9)
    return path.read_bytes()


def psnr_db(error: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / np.mean(np.square(error))))


class Setting:
    """One way to store the frames of one film, measured round by round."""

    def __init__(self, store: str, value: int, frames: np.ndarray, folder: Path) -> None:
        self.store, self.value, self.frames = store, value, frames
        self.path = folder / "stream.mp4"
        self.encode_ms: list[float] = []
        self.sequential_ms: list[float] = []
        self.random_ms: list[float] = []
        self.row: dict[str, Any] = {}

    def round(self, seed: int) -> None:
        count = len(self.frames)
        height, width = self.frames.shape[1:3]
        chosen = np.random.default_rng(seed).choice(count, max(2, count // 16), replace=False).tolist()
        if self.store == "jpeg":
            spent, stored = cpu_ms(lambda: encode_jpeg(self.frames, self.value))
            decode = lambda indices: decode_jpegs([stored[index] for index in indices])  # noqa: E731
            size_bytes = sum(map(len, stored)) + MEMBER_BYTES * count
        else:
            spent, stored = cpu_ms(lambda: encode_h264(self.frames, self.value, self.path))
            decode = lambda indices: decode_h264(stored, indices, width=width, height=height)  # noqa: E731
            size_bytes = len(stored) + MEMBER_BYTES
        self.encode_ms.append(spent / count)
        spent, decoded = cpu_ms(lambda: decode(range(count)))
        self.sequential_ms.append(spent / count)
        self.random_ms.append(cpu_ms(lambda: decode(chosen))[0] / len(chosen))
        if not self.row:
            error = decoded.astype(np.float32) - self.frames
            self.row = {
                "bytes_per_frame": round(size_bytes / count),
                "psnr_db": round(psnr_db(error), 2),
                "luma_psnr_db": round(psnr_db(error @ LUMA), 2),
            }

    def result(self) -> dict[str, Any]:
        name = {"store": self.store, "jpeg_quality" if self.store == "jpeg" else "crf": self.value}
        times = {
            "encode_ms": round(statistics.median(self.encode_ms), 2),
            "decode_sequential_ms": round(statistics.median(self.sequential_ms), 2),
            "decode_random_ms": round(statistics.median(self.random_ms), 2),
        }
        return {**name, **self.row, "mb_per_hour_at_1_fps": round(self.row["bytes_per_frame"] * 3600 / 1e6, 1), **times}


def measure(path: Path, fps: float, rounds: int, folder: Path) -> dict[str, Any]:
    frames = reference(path, fps)
    settings = [Setting("jpeg", quality, frames, folder) for quality in JPEG_QUALITIES]
    settings += [Setting("h264", crf, frames, folder) for crf in CRFS]
    for number in range(rounds):
        for setting in settings:
            setting.round(number)
    height, width = frames.shape[1:3]
    return {"frames": len(frames), "size": f"{width}x{height}", "settings": [setting.result() for setting in settings]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="LABEL=FILE")
    parser.add_argument("--fps", type=float, default=1.0, help="frames stored per second of film")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, help="write the result there, as JSON")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        named = [item.partition("=")[::2] for item in arguments.files]
        films = {label: Path(path) for label, path in named} if named else make_films(folder)
        found = {label: measure(path, arguments.fps, arguments.rounds, folder) for label, path in films.items()}
    machine = f"{platform.machine()}, one thread, PyAV {av.__version__}"
    result = {"machine": machine, "fps": arguments.fps, "rounds": arguments.rounds, "films": found}
    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
    print(text, end="")
    if arguments.out is not None:
        arguments.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
