"""What reading a remote film costs: bytes, requests and waiting, by the sizes of ranges.py.

    python -m benchmarks.ingest_ranges FILE… [--latency-ms 30] [--bandwidth 80]

The object is a local file behind an imaginary store: a request waits `latency` and then gets `bandwidth` MB/s, which is
counted, not slept. For a dense policy (1 fps) and a sparse one (8 frames) it prints, for probing and for decoding in
one process, the bytes requested as a share of the file, the number of requests and the seconds waited, with the CPU
seconds that the same work takes; first with the sizes of the product, then with others. Prints JSON lines.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from pipelines.ingest import opening, ranges
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.requests import requests_of
from pipelines.ingest.types import Location, VideoSource
from vamba.data.sampling import FrameSampling

URI = "s3://imaginary/film"
SIZES = ((256, 8), (64, 8), (1024, 8), (256, 1), (256, 0.25), (4096, 4))  # KiB of a block, MiB of the longest run
POLICIES = {"1 fps": FrameSampling(), "8 frames": FrameSampling(policy="uniform", num_frames=8)}


class ImaginaryStore:
    """Counts what a store would take."""

    def __init__(self, path: Path, latency_s: float, bytes_per_s: float) -> None:
        self._file = os.open(path, os.O_RDONLY)
        self._latency_s, self._bytes_per_s = latency_s, bytes_per_s
        self.num_requests, self.num_bytes, self.waited_s = 0, 0, 0.0

    def size(self, uri: str) -> int:
        self.num_requests, self.waited_s = self.num_requests + 1, self.waited_s + self._latency_s
        return os.fstat(self._file).st_size

    def read(self, uri: str, offset: int, length: int) -> bytes:
        self.num_requests, self.num_bytes = self.num_requests + 1, self.num_bytes + length
        self.waited_s += self._latency_s + length / self._bytes_per_s
        return os.pread(self._file, length, offset)


def measure(path: Path, sampling: FrameSampling, latency_s: float, bytes_per_s: float) -> dict[str, object]:
    """Of one probe, and of decoding all segments one after the other, each as a worker of its own would."""
    size_bytes = path.stat().st_size
    config = IngestConfig(sources=("-",), out="-", sampling=sampling)
    source = VideoSource(id="v", uri=URI, size_bytes=size_bytes, mtime_ns=0, split=None, conversations=())
    found: dict[str, object] = {}
    store = ImaginaryStore(path, latency_s, bytes_per_s)
    opening.use_ranges(store)
    started = time.process_time()
    video = plan_video(source, probe_video(Location(uri=URI)), config)
    found["probe"] = _row(store, size_bytes, time.process_time() - started)
    store = ImaginaryStore(path, latency_s, bytes_per_s)
    opening.use_ranges(store)
    started = time.process_time()
    for request in requests_of(video, jpeg_quality=85):
        opening.forget()
        decode_segment(request)
    found["decode"] = {"segments": len(video.segments), **_row(store, size_bytes, time.process_time() - started)}
    return found


def _row(store: ImaginaryStore, size_bytes: int, cpu_s: float) -> dict[str, float]:
    return {
        "share_of_file": round(store.num_bytes / size_bytes, 3),
        "requests": store.num_requests,
        "waited_s": round(store.waited_s, 2),
        "cpu_s": round(cpu_s, 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--latency-ms", type=float, default=30)
    parser.add_argument("--bandwidth", type=float, default=80, help="MB/s of one request")
    arguments = parser.parse_args()
    for path in arguments.files:
        for block_kib, run_mib in SIZES:
            ranges.BLOCK_BYTES, ranges.MAX_RUN_BYTES = block_kib * 1024, int(run_mib * 1024**2)
            for policy, sampling in POLICIES.items():
                found = measure(path, sampling, arguments.latency_ms / 1e3, arguments.bandwidth * 1e6)
                sizes = {"file": path.name, "block_kib": block_kib, "run_mib": run_mib, "policy": policy}
                print(json.dumps({**sizes, **found}), flush=True)


if __name__ == "__main__":
    main()
