"""Peak memory of an ingest's processes by the length of the film: ten minutes, an hour and ten hours, small and 4K.

    python -m benchmarks.ingest_memory [--out FILE] [--hours 0.17 1 10]

Films of 60 frames a second, made by repeating a short clip without encoding it again (the longest takes under 1 GB of
temporary space). Each step runs in a fresh process, which reports how far its peak resident memory rose above what it
was after its imports: `probe` and `decode` (the first, the middle and the last segment) are the decoder process's work,
`plan` is what the worker does with a probe, `hold` how many bytes of JPEG files the largest segment hands over.
"""

from __future__ import annotations

import argparse
import json
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import ffmpeg

from benchmarks.ingest_work import source_of
from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.requests import requests_of
from pipelines.ingest.types import VideoSource

FILMS = {
    "640x360": ("testsrc2=size=640x360:rate=60", {"b:v": "150k", "maxrate": "150k", "bufsize": "300k"}),
    "3840x2160": ("smptebars=size=3840x2160:rate=60", {"preset": "veryfast"}),
}
CLIP_S = 60


def make_clip(directory: Path, name: str) -> Path:
    picture, options = FILMS[name]
    path = directory / f"{name}-clip.mp4"
    source = ffmpeg.input(picture, f="lavfi", t=CLIP_S)
    source.output(str(path), vcodec="libx264", pix_fmt="yuv420p", **options).run(cmd=ffmpeg_binary(), quiet=True)
    return path


def repeat(clip: Path, hours: float) -> Path:
    path = clip.with_name(f"{hours:g}h-{clip.name}")
    source = ffmpeg.input(str(clip), stream_loop=-1, t=hours * 3600)
    source.output(str(path), c="copy").run(cmd=ffmpeg_binary(), quiet=True)
    return path


def peak_of(step: str, argument: object) -> tuple[int, Any]:
    """(bytes that the peak of a fresh process rose by, the step's result)."""
    command = [sys.executable, "-m", "benchmarks.ingest_memory", "--step", step]
    done = subprocess.run(command, input=pickle.dumps(argument), stdout=subprocess.PIPE, check=True)
    peak_bytes, result = pickle.loads(done.stdout)
    return peak_bytes, result


def run_step(step: str) -> None:
    """In the fresh process."""
    argument = pickle.loads(sys.stdin.buffer.read())
    work = {"probe": probe_video, "plan": _plan, "decode": decode_segment}[step]
    before_bytes = _peak_rss_bytes()
    result = work(argument)
    peak_bytes = _peak_rss_bytes() - before_bytes
    if step == "decode":
        result = sum(map(len, result))
    sys.stdout.buffer.write(pickle.dumps((peak_bytes, result)))


def _peak_rss_bytes() -> int:
    # Not getrusage: that counts what the process was before it became this program.
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def _plan(argument: tuple[VideoSource, bytes]) -> Any:
    source, probe = argument
    return plan_video(source, pickle.loads(probe), IngestConfig(sources=("-",), out="-"))


def measure(path: Path, name: str, hours: float) -> dict[str, Any]:
    source = source_of(path)
    probe_bytes, probe = peak_of("probe", str(path))
    plan_bytes, planned = peak_of("plan", (source, pickle.dumps(probe)))
    requests = requests_of(planned, 85)
    decoded = [peak_of("decode", requests[index]) for index in (0, len(requests) // 2, -1)]
    return {
        "film": name,
        "hours": hours,
        "file_mb": source.size_bytes // 10**6,
        "packets": len(probe.pts),
        "frames": len(planned.timestamps_ns),
        "segments": len(requests),
        "probe_mb": probe_bytes // 10**6,
        "plan_mb": plan_bytes // 10**6,
        "decode_mb": max(peak for peak, _ in decoded) // 10**6,
        "hold_mb": round(max(held for _, held in decoded) / 1e6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--hours", type=float, nargs="+", default=[1 / 6, 1, 10])
    parser.add_argument("--step", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        run_step(arguments.step)
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name in FILMS:
            clip = make_clip(Path(directory), name)
            for hours in arguments.hours:
                path = repeat(clip, hours)
                rows.append(measure(path, name, round(hours, 2)))
                print(json.dumps(rows[-1]), flush=True)
                path.unlink()
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
