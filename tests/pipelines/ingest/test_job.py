"""The whole ingest on Ray: bad files beside good ones, the same bytes however it runs, and after a kill."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from pipelines.ingest.progress import Silent
from pipelines.ingest.summary import IngestSummary
from pipelines.manifest_io import read_failures, read_manifest
from pipelines.ray_session import ray_session
from pipelines.storage import open_storage
from tests.pipelines.ingest.media import make_video
from vamba.data.sample import Sample
from vamba.data.sampling import FrameSampling

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(400)]
ROOT = Path(__file__).parents[3]

# Small enough for several shards and many tasks.
SHAPE = {"target_shard_bytes": 60_000, "sampling": FrameSampling(fps=2)}
RUNNER = """
import sys
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.job import run_ingest
from vamba.data.sampling import FrameSampling
summary = run_ingest(IngestConfig(
    sources=(sys.argv[1],), out=sys.argv[2], conversations=sys.argv[3], num_cpus=2, segment_cost_s=1e-6,
    target_shard_bytes=60_000, sampling=FrameSampling(fps=2), batch_videos=3))
print("reused", summary.num_segments_reused)
"""


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for number in range(6):
        make_video(folder / f"clips/Clip {number}.mp4", seconds=3 + number, audio=number % 2 == 0, acodec="aac")
    make_video(folder / "long.mkv", seconds=60, g=10, bf=2)
    (folder / "zero.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("not a video")
    cut = make_video(folder / "cut.mp4", movflags="faststart")
    os.truncate(cut, cut.stat().st_size // 2)
    damaged = make_video(folder / "damaged.mp4", seconds=6, size="160x120", movflags="faststart")
    data = bytearray(damaged.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    damaged.write_bytes(data)
    turns = [{"from": "human", "value": "<video>\nWhat?\nA. x\nB. y"}, {"from": "gpt", "value": "B"}]
    rows = [
        {"id": f"q{n}", "video": "long.mkv", "split": "test", "category": "c", "conversations": turns} for n in (1, 2)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(None, 1):
        yield


@pytest.fixture(scope="module")
def ingested(videos: Path, session: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, IngestSummary]:
    out = tmp_path_factory.mktemp("dataset") / "out"
    return out, run_ingest(config(videos, out), Silent())


def config(videos: Path, out: Path) -> IngestConfig:
    listing = str(videos / "questions.jsonl")
    return IngestConfig(sources=(str(videos),), out=str(out), conversations=listing, **SHAPE)  # type: ignore[arg-type]


def digests(out: Path) -> dict[str, str]:
    return {
        path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.rglob("*"))
        if path.is_file()
    }


def test_good_videos_are_complete_and_bad_ones_are_rows(ingested: tuple[Path, IngestSummary]) -> None:
    out, summary = ingested
    manifest = read_manifest(out)
    assert {row.id for row in manifest.samples} == {"long"} | {f"clips-clip-{number}" for number in range(6)}
    failures = {row.id: (row.stage, row.error_class) for row in read_failures(out)}
    assert {row.id: row.command for row in read_failures(out)}["damaged"].endswith("damaged.mp4 -map 0:0 -f null -")
    assert failures == {
        "zero": ("probe", "empty"),
        "text": ("probe", "not_a_video"),
        "cut": ("probe", "truncated"),
        "damaged": ("decode", "corrupt"),
    }
    assert (summary.num_sources, summary.num_videos, sum(summary.failures.values())) == (11, 7, 4)
    assert summary.num_frames == sum(row.num_frames for row in manifest.samples) == 120 + 2 * (3 + 4 + 5 + 6 + 7 + 8)
    assert not summary.budget_passed and summary.num_shards > 1
    assert sorted(path.name for path in out.iterdir()) == [
        "failures-v00001.parquet",
        "failures.parquet",
        "inputs-v00001.parquet",
        "manifest.parquet",
        "shards",
    ]


def test_one_range_read_gives_one_sample_and_digests_hold(ingested: tuple[Path, IngestSummary]) -> None:
    out, _ = ingested
    manifest = read_manifest(out)
    storage = open_storage(out)
    for shard in manifest.shards:
        data = storage.read_bytes(f"shards/{shard.name}")
        assert len(data) == shard.size_bytes and hashlib.sha256(data).hexdigest() == shard.sha256
    for row in manifest.samples:
        data = storage.read_range(f"shards/{row.shard}", row.offset_bytes, row.size_bytes)
        with tarfile.open(fileobj=io.BytesIO(data + bytes(1024))) as tar:
            members = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
        sample = Sample.from_members(members)
        assert (sample.id, len(sample.frames), sample.split) == (row.id, row.num_frames, row.split)
        picture = Image.open(io.BytesIO(sample.frames[0]))
        assert picture.size == (row.width, row.height) and np.asarray(picture).std() > 10
        if row.id == "long":
            assert row.split == "test" and row.num_conversations == 2
            assert [conversation.id for conversation in sample.conversations] == ["q1", "q2"]
            assert sample.timestamps_ns == tuple(number * 500_000_000 for number in range(120))


def test_plain_webdataset_reads_the_shards(ingested: tuple[Path, IngestSummary]) -> None:
    out, summary = ingested
    code = (
        "import glob, json, sys, webdataset as wds\n"
        f"urls = sorted(glob.glob({str(out)!r} + '/shards/*.tar'))\n"
        "frames = 0\n"
        "for sample in wds.WebDataset(urls, shardshuffle=False):\n"
        "    document = json.loads(sample['json'])\n"
        "    assert document['id'] == sample['__key__']\n"
        "    jpegs = [key for key in sample if key.endswith('.jpg')]\n"
        "    assert len(jpegs) == len(document['timestamps_ns'])\n"
        "    frames += len(jpegs)\n"
        "print(frames)\n"
    )
    result = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert int(result.stdout) == summary.num_frames


def test_finished_dataset_is_left_alone_and_other_settings_refused(
    ingested: tuple[Path, IngestSummary], videos: Path
) -> None:
    out, summary = ingested
    before = digests(out)
    again = run_ingest(config(videos, out), Silent())
    assert again.was_complete and again.manifest_digest == summary.manifest_digest
    other = IngestConfig(sources=(str(videos),), out=str(out), sampling=FrameSampling(fps=1))
    with pytest.raises(ValueError, match="other settings and inputs.*another"):
        run_ingest(other, Silent())
    assert digests(out) == before


def test_killed_run_continues_to_the_same_bytes(
    ingested: tuple[Path, IngestSummary], videos: Path, tmp_path: Path
) -> None:
    """The killed and the continuing run use two workers, one GOP a task and batches of three; the reference did not."""
    out = tmp_path / "killed"
    command = [sys.executable, "-c", RUNNER, str(videos), str(out), str(videos / "questions.jsonl")]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(list(out.glob("_ingest/*/segments/*/*.seg"))) < 5:
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "manifest.parquet").exists()
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.split()[-1]) >= 5
    assert digests(out) == digests(ingested[0])


def test_budget(videos: Path, tmp_path: Path, session: None) -> None:
    sources = (str(videos / "zero.mp4"), str(videos / "clips/Clip 0.mp4"))
    summary = run_ingest(IngestConfig(sources=sources, out=str(tmp_path / "b"), max_failure_fraction=0.4), Silent())
    assert summary.budget_passed and summary.num_videos == 1


def test_nothing_but_failures_still_ends_with_a_dataset(videos: Path, tmp_path: Path, session: None) -> None:
    summary = run_ingest(IngestConfig(sources=(str(videos / "zero.mp4"),), out=str(tmp_path / "n")), Silent())
    assert (summary.num_videos, summary.num_shards, summary.failures) == (0, 0, {"empty": 1})
    assert read_manifest(tmp_path / "n").samples == ()
