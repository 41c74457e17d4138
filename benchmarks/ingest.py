"""CPU of exact 1 fps sampling against a plain full decode of the same file, side by side.

    python benchmarks/ingest.py [FILE…] [--runs 5]

Ours: hash the source, probe it, plan, decode to the exact frames, JPEG; one process, no Ray, no tar. Theirs:
`ffmpeg -threads 1 -f null -`, which decodes everything and keeps nothing. Without files, five minutes of 640x360 H.264
at 30 fps are made: once with x264's default GOP, once with a keyframe every two seconds. Prints medians as JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import ffmpeg

from pipelines.ffmpeg import ffmpeg_binary

WORKER = """
import sys
from pipelines.evaluation.ask import AskConfig, plan_ask, requests_of
from pipelines.ingest.decode import decode_segment
config = AskConfig(video=sys.argv[1], question="-", model="-")
requests = requests_of(plan_ask(config), config.frames.jpeg_quality)
print(sum(len(decode_segment(request)) for request in requests))
"""


def make_files(directory: Path) -> list[Path]:
    """The two default files."""
    files = []
    for name, options in (("default-gop", {}), ("2s-gop", {"g": 60})):
        path = directory / f"640x360-30fps-{name}.mp4"
        source = ffmpeg.input("testsrc2=size=640x360:rate=30", f="lavfi", t=300)
        stream = source.output(str(path), vcodec="libx264", pix_fmt="yuv420p", **options)
        ffmpeg.run(stream.global_args("-loglevel", "error", "-y"), cmd=ffmpeg_binary())
        files.append(path)
    return files


def cpu_s(command: list[str]) -> tuple[float, str]:
    """(user + system seconds of a command and its children, its output)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def measure(path: Path, runs: int) -> dict[str, object]:
    """Medians over pairs that ran one after the other; imports are measured apart and taken off ours."""
    plain = [ffmpeg_binary(), "-v", "error", "-threads", "1", "-i", str(path), "-map", "0:v:0", "-f", "null", "-"]
    imports = WORKER.split("config = ")[0]
    pairs, num_frames = [], 0
    for _ in range(runs):
        ours, output = cpu_s([sys.executable, "-c", WORKER, str(path)])
        num_frames = int(output)
        pairs.append((ours - cpu_s([sys.executable, "-c", imports])[0], cpu_s(plain)[0]))
    return {
        "file": path.name,
        "frames": num_frames,
        "ours_cpu_s": round(statistics.median(ours for ours, _ in pairs), 2),
        "plain_decode_cpu_s": round(statistics.median(plain for _, plain in pairs), 2),
        "ratio": round(statistics.median(ours / plain for ours, plain in pairs), 2),
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        for path in arguments.files or make_files(Path(directory)):
            print(json.dumps(measure(path, arguments.runs)), flush=True)


if __name__ == "__main__":
    main()
