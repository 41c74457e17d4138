"""What reading on costs against seeking, per container: the constants of the rule in pipelines/ingest/segments.py.

    python -m benchmarks.ingest_seeks [--out FILE]

A quarter of an hour of 640x360 H.264 and a minute of 4K at 30 Mbit/s, each in MP4, Matroska, MPEG-TS and FLV. Measured
in CPU of this process, the smallest of five: demuxing, and going through fifty keyframes in order, each by a seek into
a container that was just opened. Then 64 frames spread over the quarter hour, read through and by the rule.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import ffmpeg
import numpy as np

from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.container import open_container
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.requests import requests_of
from pipelines.ingest.types import VideoSource
from vamba.data.sampling import FrameSampling

CONTAINERS = ("mp4", "mkv", "ts", "flv")
FILMS = {
    "640x360": ({"size": "640x360", "seconds": 60, "loops": 14}, {}),
    "4k": ({"size": "3840x2160", "seconds": 4, "loops": 14}, {"preset": "ultrafast", "b:v": "30M", "g": 60}),
}
NUM_SEEKS = 50
NUM_FRAMES = 64
NUM_RUNS = 5


def make(directory: Path, name: str) -> list[Path]:
    """One film in all containers."""
    shape, options = FILMS[name]
    picture = f"testsrc2=size={shape['size']}:rate=30:duration={shape['seconds']}"
    clip = directory / f"{name}-clip.mp4"
    encode = ffmpeg.input(picture, f="lavfi").output(str(clip), vcodec="libx264", pix_fmt="yuv420p", **options)
    encode.run(cmd=ffmpeg_binary(), quiet=True)
    paths = [directory / f"{name}.{container}" for container in CONTAINERS]
    for path in paths:
        copy = ffmpeg.input(str(clip), stream_loop=shape["loops"]).output(str(path), c="copy")
        copy.run(cmd=ffmpeg_binary(), quiet=True)
    return paths


def cpu_s(work: Callable[[], Any]) -> float:
    """CPU seconds of this process for a piece of work, the smallest of several runs."""
    times = []
    for _ in range(NUM_RUNS):
        started_s = time.process_time()
        work()
        times.append(time.process_time() - started_s)
    return min(times)


def read_through(path: Path) -> list[tuple[int, int]]:
    """(pts, dts) of the keyframes."""
    with open_container(str(path)) as container:
        packets = container.demux(container.streams.video[0])
        return [(p.pts, p.dts) for p in packets if p.size and p.is_keyframe and p.dts is not None]


def go_through(path: Path, keys: list[tuple[int, int]]) -> None:
    """Opens the file, seeks to each keyframe in turn and reads until it comes."""
    with open_container(str(path)) as container:
        stream = container.streams.video[0]
        for pts, dts in keys:
            by_pts = container.format.name.startswith(("mov", "matroska"))
            container.seek(pts if by_pts else dts, stream=stream, backward=True)
            next(p for p in container.demux(stream) if p.is_keyframe and p.pts == pts)


def measure(path: Path) -> dict[str, Any]:
    """Costs of one file."""
    keys = read_through(path)
    with open_container(str(path)) as container:
        num_packets = sum(1 for packet in container.demux(container.streams.video[0]) if packet.size)
    chosen = [keys[int(index)] for index in np.linspace(1, len(keys) - 1, min(NUM_SEEKS, len(keys) - 1))]
    open_s = cpu_s(lambda: go_through(path, []))
    read_s = cpu_s(lambda: read_through(path)) - open_s
    seek_s = cpu_s(lambda: go_through(path, chosen)) - open_s
    return {
        "file": path.name,
        "packets": num_packets,
        "bytes_per_packet": path.stat().st_size // num_packets,
        "open_ms": round(open_s * 1e3, 2),
        "read_us_per_packet": round(read_s / num_packets * 1e6, 2),
        "seek_us": round(seek_s / len(chosen) * 1e6, 1),
        "seek_in_packets": round(seek_s / len(chosen) / (read_s / num_packets)),
    }


def sparse(path: Path) -> dict[str, Any]:
    """A few frames of a film, by the rule and without seeking."""
    config = IngestConfig(
        sources=("-",), out="-", sampling=FrameSampling(policy="uniform", num_frames=NUM_FRAMES), segment_cost_s=1e9
    )
    size_bytes = path.stat().st_size
    source = VideoSource(id="v", uri=str(path), size_bytes=size_bytes, mtime_ns=0, split=None, conversations=())
    (by_rule,) = requests_of(plan_video(source, probe_video(str(path)), config), 85)
    read_on = replace(by_rule, seeks=())
    assert decode_segment(by_rule) == decode_segment(read_on)
    rule_s, read_s = cpu_s(lambda: decode_segment(by_rule)), cpu_s(lambda: decode_segment(read_on))
    return {
        "file": path.name,
        "frames": NUM_FRAMES,
        "seeks": len(by_rule.seeks),
        "read_through_cpu_s": round(read_s, 3),
        "by_rule_cpu_s": round(rule_s, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    av.logging.set_level(av.logging.PANIC)
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for name in FILMS:
            paths = make(Path(directory), name)
            rows += [measure(path) for path in paths]
            rows += [sparse(path) for path in paths if name == "640x360"]
            print(*map(json.dumps, rows[-8:] if name == "640x360" else rows[-4:]), sep="\n", flush=True)
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
