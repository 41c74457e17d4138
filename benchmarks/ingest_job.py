"""What Ray costs, and what a second core brings: one long film ingested by the job, and by bare processes.

    python -m benchmarks.ingest_job [FILE] [--runs 3] [--out FILE]

Without a file, five minutes of 640x360 H.264 are made and repeated to an hour. Three ways to do the same work, each on
one core and on two (all processes are bound to the one, Ray's own as well), wall seconds and CPU seconds of all
processes, in turn:

* `job`: `run_ingest` on a Ray that is up and whose workers have done a small ingest before;
* `bare`: the same segments through the same decoder processes, one thread a process to feed it, then one tar;
* `ffmpeg`: two plain decodes of a part of the film, one after the other and side by side: what two cores of this
  machine can give at most.

Prints the median of each, of the ratios job/bare and of the speed-ups, as JSON. Wall times mean something on a machine
that does nothing else; CPU seconds hold elsewhere, too.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from benchmarks.ingest_work import default_film, plan_with, repeat, source_of, write_tar
from benchmarks.peers.measured import tree_cpu_s
from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
from pipelines.ingest.requests import requests_of
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.types import DecodeRequest
from pipelines.ray_session import ray_session

LIMIT_S = 600.0
CORES = (1, 2)


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """(wall seconds, CPU seconds of this process and all that it started)."""
    started_s, cpu_s = time.monotonic(), tree_cpu_s()
    work()
    return time.monotonic() - started_s, tree_cpu_s() - cpu_s


def bare(path: Path, directory: Path, num_processes: int) -> None:
    """Probe, plan, decode and pack without Ray."""
    decoders = [DecoderProcess(max_rss_bytes=3 * 1024**3) for _ in range(num_processes)]
    free: SimpleQueue[DecoderProcess] = SimpleQueue()
    for decoder in decoders:
        free.put(decoder)

    def decode(request: DecodeRequest) -> list[bytes]:
        decoder = free.get()
        try:
            return decoder.decode(request, limit_s=LIMIT_S)
        finally:
            free.put(decoder)

    video = plan_with(decoders[0], source_of(path), IngestConfig(sources=("-",), out="-"))
    with ThreadPoolExecutor(num_processes) as pool:
        write_tar(directory / "bare.tar", video, pool.map(decode, requests_of(video, 85)))
    for decoder in decoders:
        decoder.close()


def job(path: Path, directory: Path) -> None:
    """The ingest, on the Ray that is there."""
    out = directory / "dataset"
    shutil.rmtree(out, ignore_errors=True)
    summary = run_ingest(IngestConfig(sources=(str(path),), out=str(out)), Silent())
    assert summary.num_videos == 1 and not summary.failures


def ffmpeg_decodes(path: Path, num_at_once: int) -> None:
    """Two decodes of the film, all at once or one by one."""
    command = [ffmpeg_binary(), "-v", "error", "-threads", "1", "-i", str(path), "-map", "0:v:0", "-f", "null", "-"]
    running: list[subprocess.Popen[bytes]] = []
    for _ in range(2):
        running.append(subprocess.Popen(command))
        if len(running) == num_at_once:
            assert not any(process.wait() for process in running)
            running = []


@contextmanager
def bound_to(num_cores: int) -> Iterator[None]:
    """This process and all that it starts meanwhile run on so many cores."""
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(all_cores)[:num_cores])
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_cores)


def measure(film: Path, clip: Path, directory: Path, runs: int) -> dict[str, Any]:
    times: dict[str, list[tuple[float, float]]] = {f"{way}-{n}": [] for way in ("job", "bare", "ffmpeg") for n in CORES}
    for _ in range(runs):
        for num_cores in CORES:
            with bound_to(num_cores):
                with ray_session(None, num_cores):
                    job(clip, directory)
                    times[f"job-{num_cores}"].append(timed(lambda: job(film, directory)))
                times[f"bare-{num_cores}"].append(timed(lambda n=num_cores: bare(film, directory, n)))  # type: ignore[misc]
                times[f"ffmpeg-{num_cores}"].append(timed(lambda n=num_cores: ffmpeg_decodes(clip, n)))  # type: ignore[misc]
        print(
            json.dumps({name: [round(value, 2) for value in values[-1]] for name, values in times.items()}), flush=True
        )
    return summarise(film, times, runs)


def summarise(film: Path, times: dict[str, list[tuple[float, float]]], runs: int) -> dict[str, Any]:
    def ratio(over: str, under: str, clock: int) -> float:
        return round(statistics.median(a[clock] / b[clock] for a, b in zip(times[over], times[under], strict=True)), 3)

    wall, cpu = 0, 1
    return {
        "file": film.name,
        "runs": runs,
        "wall_s": {
            name: round(statistics.median(value[wall] for value in values), 2) for name, values in times.items()
        },
        "cpu_s": {name: round(statistics.median(value[cpu] for value in values), 2) for name, values in times.items()},
        "job_over_bare_wall": {str(n): ratio(f"job-{n}", f"bare-{n}", wall) for n in CORES},
        "job_over_bare_cpu": {str(n): ratio(f"job-{n}", f"bare-{n}", cpu) for n in CORES},
        "speed_up_on_2_cores": {way: ratio(f"{way}-1", f"{way}-2", wall) for way in ("job", "bare", "ffmpeg")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        film = arguments.file or repeat(default_film(directory), 3600)
        clip = repeat(film, 300)
        result = measure(film, clip, directory, arguments.runs)
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
