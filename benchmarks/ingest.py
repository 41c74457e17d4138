"""CPU of exact 1 fps sampling against a plain full decode of the same file, side by side.

    python -m benchmarks.ingest [FILE…] [--runs 5] [--out FILE]

Ours: hash the source, probe it, plan, decode to the exact frames, JPEG, tar and its sha256; one process, no Ray.
Theirs: `ffmpeg -threads 1 -f null -`, which decodes everything and keeps nothing. Without files, H.264 at 30 fps is
made: five minutes of 640x360 and two of 1080p, each once with x264's default GOP and once with a keyframe every two
seconds. Prints medians of pairs that ran one after the other, as JSON.
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

from benchmarks.ingest_work import default_film
from pipelines.ffmpeg import ffmpeg_binary

WORKER = """
import sys
from pathlib import Path
from benchmarks.ingest_work import plan_of, write_tar
from pipelines.ingest.requests import requests_of
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment
video = plan_of(Path(sys.argv[1]), IngestConfig(sources=("-",), out="-"))
print(write_tar(Path(sys.argv[2]), video, map(decode_segment, requests_of(video, 85)))[0])
"""


def make_files(directory: Path) -> list[Path]:
    """The four default files."""
    sizes = (("640x360", 300), ("1920x1080", 120))
    return [default_film(directory, size, seconds, **options) for size, seconds in sizes for options in ({}, {"g": 60})]


def cpu_s(command: list[str]) -> tuple[float, str]:
    """(user + system seconds of a command and its children, its output)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def measure(path: Path, tar: Path, runs: int) -> dict[str, object]:
    """Medians over pairs that ran one after the other; imports are measured apart and taken off ours."""
    plain = [ffmpeg_binary(), "-v", "error", "-threads", "1", "-i", str(path), "-map", "0:v:0", "-f", "null", "-"]
    imports = WORKER.split("video = ")[0]
    pairs, num_frames = [], 0
    for _ in range(runs):
        ours, output = cpu_s([sys.executable, "-c", WORKER, str(path), str(tar)])
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
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for path in arguments.files or make_files(Path(directory)):
            rows.append(measure(path, Path(directory) / "ours.tar", arguments.runs))
            print(json.dumps(rows[-1]), flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
