"""Whole ingests of videos, images, a listing and a WebDataset: from S3 to S3 as from a folder to a folder."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from pipelines.ingest import job
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.progress import Silent
from pipelines.manifest_io import read_failures, read_manifest
from tests.pipelines.ingest.media import make_video
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401


@pytest.fixture(autouse=True)
def without_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks run here, one after the other."""

    def run_stage(tasks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
        return map(work, tasks)

    monkeypatch.setattr(job, "run_stage", run_stage)
    monkeypatch.setattr(job, "ray_session", lambda *_: nullcontext())


def fill(root: Path) -> None:
    make_video(root / "films/a.mp4", seconds=3)
    make_video(root / "films/b.mkv", seconds=2)
    Image.new("RGB", (300, 200), "red").save(root / "films/p.jpg")
    Image.new("RGB", (30, 20), "blue").save(root / "q.png")
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "B"}]
    text = [{"from": "human", "value": "2 + 2?"}, {"from": "gpt", "value": "4"}]
    rows = [{"image": "q.png", "conversations": turns}, {"id": "t", "conversations": text}]
    rows.append({"image": ["q.png", "films/p.jpg"], "conversations": turns})
    (root / "l.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with tarfile.open(root / "s-000.tar", "w") as tar:
        tar.add(root / "films/a.mp4", "k1.mp4")
        caption = tarfile.TarInfo("k1.txt")
        caption.size = 5
        tar.addfile(caption, io.BytesIO(b"hello"))
        tar.add(root / "films/p.jpg", "k2.jpg")


def test_s3_gives_what_a_folder_gives(s3: S3Server, tmp_path: Path) -> None:  # noqa: F811
    fill(tmp_path / "in")
    bucket = s3.make_bucket()
    s3.put_folder(tmp_path / "in", bucket, "in/")
    seen = []
    for root, out in ((str(tmp_path / "in"), str(tmp_path / "out")), (f"s3://{bucket}/in", f"s3://{bucket}/out")):
        sources = (f"{root}/films", f"{root}/l.jsonl", f"{root}/s-{{000..000}}.tar")
        summary = job.run_ingest(IngestConfig(sources=sources, out=out, batch_videos=3), Silent())
        assert (summary.num_videos, summary.failures, summary.found.num_text_only_rows) == (6, {"unsupported": 1}, 1)
        rows = read_manifest(out).samples
        assert all(row.source_uri.startswith(root) for row in rows)
        assert {row.id: (row.media, row.num_frames, row.num_conversations) for row in rows} == {
            "a": ("video", 3, 0),
            "b": ("video", 2, 0),
            "p": ("image", 1, 0),
            "q": ("image", 1, 1),
            "s-000-k1": ("video", 3, 1),
            "s-000-k2": ("image", 1, 0),
        }
        assert [row.source_uri for row in read_failures(out)] == [f"{root}/l.jsonl#line-3"]
        seen.append([(row.id, row.source_digest) for row in rows])
    assert seen[0] == seen[1]
