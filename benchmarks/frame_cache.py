"""What the frame cache of an evaluation saves: a video shown without it, for the first time with it, and again.

    python -m benchmarks.frame_cache [--minutes 10] [--frames 128] [--runs 3] [--out FILE.json]

One H.264 video of 640x360 at 30 frames a second (`testsrc2`, x264's own settings) is shown as a benchmark shows it:
frames evenly over its length, decoded in a process, resized. The three ways run in turn, `--runs` times; printed are
medians by the clock. The file of the cache is in the page cache when it is read.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections import defaultdict
from contextlib import closing
from pathlib import Path

import ffmpeg

from pipelines.evaluation.benchmarks.question import Clip
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.frame_cache import FrameCache
from pipelines.evaluation.protocols.recipe import FrameRule
from pipelines.evaluation.shown_pixels import shown_pixels
from pipelines.ffmpeg import ffmpeg_binary
from vamba.data.frames import FrameProcessing, resize_frames

LIMIT_BYTES = 50 * 10**9


def make_video(path: Path, minutes: int) -> None:
    source = ffmpeg.input("testsrc2=size=640x360:rate=30", f="lavfi", t=60 * minutes)
    source.output(str(path), vcodec="libx264", pix_fmt="yuv420p").run(cmd=ffmpeg_binary(), quiet=True)


def show(shown: ShownClip, cache: FrameCache | None) -> float:
    """Seconds until all frames are there in the size that the model takes."""
    started = time.perf_counter()
    pixels = shown_pixels(shown, FrameProcessing(), cache=cache, device="cpu", num_processes=1)
    with closing(pixels.pieces):
        num_frames = sum(len(resize_frames(piece, pixels.processing)) for piece in pixels.pieces)
    assert num_frames == pixels.num_frames
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--frames", type=int, default=128)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    found: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as scratch:
        video, kept = Path(scratch) / "video.mp4", Path(scratch) / "cache"
        make_video(video, arguments.minutes)
        rule = FrameRule(num_frames=arguments.frames, shortest_edge=256, longest_edge=480)
        shown = ShownClip(id="video", clip=Clip(path=str(video)), frames=rule)
        for _ in range(arguments.runs):
            shutil.rmtree(kept, ignore_errors=True)
            cache = FrameCache(kept, LIMIT_BYTES)
            for name, used in (("without", None), ("first", cache), ("again", cache)):
                found[name].append(show(shown, used))
    seconds = {name: round(statistics.median(runs), 4) for name, runs in found.items()}
    result = {
        "machine": f"{os.cpu_count()} cores of {platform.machine()}",
        "minutes": arguments.minutes,
        "frames": arguments.frames,
        "seconds": seconds,
        "again_over_without": round(seconds["again"] / seconds["without"], 4),
        "first_over_without": round(seconds["first"] / seconds["without"], 4),
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
