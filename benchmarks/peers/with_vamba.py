"""Ours: probe, plan, decode, JPEG, tar and sha256, in one process without Ray; or with `--ray` the whole job on Ray."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.ingest_work import plan_of, write_tar
from benchmarks.peers.measured import number_of, report
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.requests import requests_of

film = Path(sys.argv[1])


def numbers(path: Path) -> list[int]:
    with tarfile.open(path) as tar:
        pictures = [tar.extractfile(member) for member in tar.getmembers() if member.name.endswith(".jpg")]
        return [number_of(np.asarray(Image.open(io.BytesIO(picture.read())))) for picture in pictures if picture]


def ingest(directory: Path) -> Path:
    video = plan_of(film, IngestConfig(sources=("-",), out="-"))
    write_tar(directory / "ours.tar", video, map(decode_segment, requests_of(video, 85)))
    return directory / "ours.tar"


def ingest_on_ray(directory: Path) -> Path:
    from pipelines.ingest.job import run_ingest
    from pipelines.ingest.progress import Silent

    run_ingest(IngestConfig(sources=(str(film),), out=str(directory / "out")), Silent())
    return directory / "out/shards/shard-000000.tar"


with tempfile.TemporaryDirectory() as name:
    if "--ray" in sys.argv:
        from pipelines.ray_session import ray_session

        with ray_session(None):
            report(lambda: ingest_on_ray(Path(name)), numbers)
    else:
        report(lambda: ingest(Path(name)), numbers)
