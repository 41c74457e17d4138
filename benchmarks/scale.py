"""The figures behind docs/scale.md: what grows with the hours of video, measured small and multiplied.

    python -m benchmarks.scale [--out FILE]

Each figure says how it was had: "measured" on this machine, "simulated" (objects of the real size and number, made
from a generator), or "assumed" (prices, latencies). Takes some minutes and 2 GB of memory; a local S3 server counts
the requests of two real ingests, whose difference is what an hour of video costs.
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.ingest_work import default_film, plan_of, repeat
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.plan import estimated_bytes, plan_video
from pipelines.ingest.rows import probed_table, to_parquet
from pipelines.ingest.types import PlannedVideo, ProbedVideo, VideoSource
from pipelines.manifest_io import MANIFEST_NAME, build_manifest, read_manifest, write_manifest
from vamba.data.manifest import SampleRow, ShardRow

NUM_ROWS = 1_000_000
CLIP_S = 120
FILM_HOURS = (1 / 6, 1 / 2)
# The server paints some of its lines.
_REQUEST = re.compile(r'"(?:\x1b\[\d+m)*(PUT|GET|HEAD|POST|DELETE) (\S+) HTTP')


def manifest_of(num_rows: int, directory: Path) -> dict[str, Any]:
    """Simulated: a manifest of so many videos, written and read by the real code."""
    digests = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(num_rows)]
    shards = [
        ShardRow(name=f"shard-{n:06d}.tar", size_bytes=140_000_000, sha256=digests[n], num_samples=1)
        for n in range(num_rows)  # a film of an hour fills a shard of 128 MB
    ]
    samples = [_sample(row, digests[row]) for row in range(num_rows)]
    manifest = build_manifest(shards, samples, config_digest="sha256:0", inputs_digest="sha256:1")
    started_s = time.monotonic()
    write_manifest(directory, manifest)
    written_s = time.monotonic() - started_s
    size_bytes = (directory / MANIFEST_NAME).stat().st_size
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        read_s, peak_bytes = pool.apply(_read, (directory,))
    return {
        "how": "simulated",
        "rows": num_rows,
        "shards": len(shards),
        "bytes_per_row": round(size_bytes / num_rows, 1),
        "write_s": round(written_s, 1),
        "read_s": round(read_s, 1),
        "read_peak_mb": peak_bytes // 10**6,
    }


def _sample(row: int, digest: str) -> SampleRow:
    folder, name = divmod(row, 1000)
    values: dict[str, Any] = {
        "id": f"channel-{folder:05d}-{digest[:11]}",
        "shard": f"shard-{row:06d}.tar",
        "offset_bytes": 0,
        "size_bytes": 132_000_000 + row % 1000 * 512,
        "split": "train",
        "media": "video",
        "duration_ns": 3_600_000_000_000 + name * 33_366_700,
        "num_frames": 3600 + name % 7,
        "width": 640,
        "height": 360,
        "num_conversations": 3,
        "source_uri": f"s3://bucket/videos/channel-{folder:05d}/{digest[:11]}.mp4",
        "source_digest": f"sha256:{digest}",
    }
    if "video_tokens" in SampleRow.__dataclass_fields__:
        values["video_tokens"] = 3600 * 299
    return SampleRow(**values)


def _read(directory: Path) -> tuple[float, int]:
    before_bytes = _peak_rss_bytes()
    started_s = time.monotonic()
    read_manifest(directory)
    return time.monotonic() - started_s, _peak_rss_bytes() - before_bytes


def _peak_rss_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def plan_of_an_hour() -> dict[str, Any]:
    """Simulated: the plan of an hour of 30 frames a second, from a packet index that was never a file."""
    num_frames = 30 * 3600
    pts = np.arange(num_frames, dtype=np.int64) * 512
    probe = ProbedVideo(
        digest="sha256:" + "0" * 64,
        container="mov,mp4,m4a,3gp,3g2,mj2",
        codec="h264",
        stream_index=0,
        time_base=Fraction(1, 15360),
        width=640,
        height=360,
        pixel_aspect=Fraction(1),
        orientation="",
        average_fps=Fraction(30),
        has_audio=True,
        pts=pts,
        dts=pts,
        is_key=np.arange(num_frames) % 250 == 0,
        is_shown=np.ones(num_frames, bool),
        end_pts=num_frames * 512,
    )
    source = VideoSource(id="v", uri="/v.mp4", size_bytes=4 * 10**8, mtime_ns=0, split=None, conversations=())
    started_s = time.process_time()
    video = plan_video(source, probe, IngestConfig(sources=("-",), out="-"))
    planned_s = time.process_time() - started_s
    before_bytes = psutil.Process().memory_info().rss
    copies = [_copy(video, number) for number in range(100)]
    held_bytes = (psutil.Process().memory_info().rss - before_bytes) // len(copies)
    table = probed_table(copies)
    return {
        "how": "simulated",
        "frames": len(video.timestamps_ns),
        "segments": len(video.segments),
        "plan_cpu_s": round(planned_s, 3),
        "stored_bytes": len(to_parquet(table)) // len(copies),
        "arrow_bytes": table.nbytes // len(copies),
        "driver_bytes": held_bytes,
        "shard_bytes": estimated_bytes(video),
    }


def _copy(video: PlannedVideo, number: int) -> PlannedVideo:
    values = {name: getattr(video, name) for name in PlannedVideo.__dataclass_fields__}
    values["timestamps_ns"] = tuple(value + number for value in video.timestamps_ns)
    return PlannedVideo(**values)


def requests_per_hour(directory: Path) -> dict[str, Any]:
    """Measured: the requests that two ingests of different length make of an S3 server, and their difference."""
    clip = default_film(directory, "640x360", CLIP_S)
    counts = []
    for hours in FILM_HOURS:
        film = repeat(clip, hours * 3600)
        counts.append(_count_requests(film, directory / f"{hours:.2f}.log"))
    span = FILM_HOURS[1] - FILM_HOURS[0]
    kinds = sorted(set(counts[0]) | set(counts[1]))
    per_hour = {kind: round((counts[1][kind] - counts[0][kind]) / span) for kind in kinds}
    return {"how": "measured", "per_hour": per_hour, "whole_ingest": {f"{FILM_HOURS[0]:.2f} h": dict(counts[0])}}


def _count_requests(film: Path, log: Path) -> collections.Counter[str]:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {
        **os.environ,
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }
    with open(log, "w") as output:
        server = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)], stderr=output, stdout=output)
        try:
            subprocess.run([sys.executable, "-c", INGEST, str(film)], env=environment, check=True, capture_output=True)
        finally:
            server.terminate()
            server.wait()
    counts: collections.Counter[str] = collections.Counter()
    for method, target in _REQUEST.findall(log.read_text()):
        is_list = method == "GET" and ("list-type" in target or "prefix=" in target)
        counts["LIST" if is_list else method] += 1
    return counts


INGEST = """
import sys, time, urllib.request, os
for _ in range(100):
    try:
        urllib.request.urlopen(urllib.request.Request(os.environ["AWS_ENDPOINT_URL"] + "/bucket", method="PUT")); break
    except OSError:
        time.sleep(0.2)
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
summary = run_ingest(IngestConfig(sources=(sys.argv[1],), out="s3://bucket/data", num_cpus=1), Silent())
assert summary.num_videos == 1
"""


def film_of_an_hour(directory: Path) -> dict[str, Any]:
    """Measured: what a film that really is one costs, by the benchmark of bare work."""
    from benchmarks.ingest import measure

    film = repeat(default_film(directory, "640x360", CLIP_S), 600)
    row = measure(film, directory / "ours.tar", 1)
    video = plan_of(film, IngestConfig(sources=("-",), out="-"))
    tar_bytes = (directory / "ours.tar").stat().st_size
    return {
        "how": "measured",
        "cpu_s_per_hour": round(float(str(row["ours_cpu_s"])) * 6, 1),
        "tar_mb_per_hour": round(tar_bytes * 6 / 1e6),
        "segments_per_hour": len(video.segments) * 6,
        "planned_s_per_hour": round(sum(segment.cost_s for segment in video.segments) * 6, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="*", help="the ones to make again: plan film requests manifest_tenth manifest")
    parser.add_argument("--rows", type=int, default=NUM_ROWS)
    parser.add_argument("--out", type=Path, help="what is in it of other figures stays")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {}
    if arguments.out and arguments.out.exists():
        figures = json.loads(arguments.out.read_text())
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        all_figures: dict[str, Callable[[], dict[str, Any]]] = {
            "plan": plan_of_an_hour,
            "film": lambda: film_of_an_hour(directory),
            "requests": lambda: requests_per_hour(directory),
            "manifest_tenth": lambda: manifest_of(arguments.rows // 10, directory),
            "manifest": lambda: manifest_of(arguments.rows, directory),
        }
        for figure in arguments.figures or all_figures:
            figures[figure] = all_figures[figure]()
            print(json.dumps({figure: figures[figure]}), flush=True)
            if arguments.out:
                arguments.out.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
