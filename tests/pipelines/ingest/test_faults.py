"""Killed before, within or after any storage operation, an ingest continues to the bytes of an undisturbed run.

Every operation that changes the storage is tried, in a first ingest, in `--append`, in `--retry-failures` and in both
at once. After each kill the dataset that a reader sees is whole: the version before, or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.datasets.verify import verify
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request
from pipelines.ingest.job import run_ingest
from pipelines.ingest.lock import LeaseLost
from pipelines.ingest.progress import Silent
from pipelines.manifest_io import has_manifest, read_manifest
from pipelines.s3 import S3Storage
from pipelines.storage import Storage, open_storage
from tests.pipelines.ingest.faults import Faults, Killed, OneProcess
from tests.pipelines.ingest.media import make_video
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, unruly  # noqa: F401 - a fixture

# Several segments of a video, videos of a batch, batches and shards.
SHAPE = {"target_shard_bytes": 8_000, "segment_cost_s": 1e-6, "batch_videos": 2}
MOMENTS = ("before", "within", "after")  # after one is before the next: tried for the last only
# What is ingested on top of a finished dataset of day 1, by which request; day 1 itself first.
WAYS = {
    "ingest": (Request(), ["day1"]),
    "append": (Request(append=True), ["day2"]),
    "retry": (Request(retry_failures=True), ["day1"]),
    "both": (Request(append=True, retry_failures=True), ["day1", "day2"]),
}


@pytest.fixture(scope="module")
def one_process() -> Iterator[OneProcess]:
    with pytest.MonkeyPatch.context() as patch:
        process = OneProcess(patch)
        yield process
        process.close()


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Day 1: two videos, one in several segments, and a cut one. Day 2: a video, and a text."""
    folder = tmp_path_factory.mktemp("media")
    for name, seconds in (("day1/a", 2), ("day1/b", 6), ("day2/c", 2), ("whole", 1)):
        make_video(folder / f"{name}.mp4", seconds=seconds, size="64x48")
    (folder / "day1/cut.mp4").write_bytes((folder / "whole.mp4").read_bytes()[:1000])
    (folder / "day2/text.mp4").write_text("not a video")
    return folder


@pytest.fixture(scope="module")
def bases(media: Path, one_process: OneProcess, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What is there before each way begins. For a retry the cut video is whole by then."""
    folder = tmp_path_factory.mktemp("bases")
    ingest(str(folder / "day1"), media, "ingest")
    shutil.copy(media / "whole.mp4", media / "day1/cut.mp4")
    one_process.forget()
    return {way: folder / ("none" if way == "ingest" else "day1") for way in WAYS}


def ingest(out: str, media: Path, way: str) -> None:
    request, sources = WAYS[way]
    paths = tuple(str(media / name) for name in sources)
    run_ingest(IngestConfig(sources=paths, out=out, **SHAPE), Silent(), request)  # type: ignore[arg-type]


def digests(storage: Storage) -> dict[str, str]:
    """Of every file, hidden and temporary ones too."""
    root = Path(storage.uri)
    if isinstance(storage, S3Storage):
        paths = [entry.path for entry in storage.list()]
    else:
        paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return {path: hashlib.sha256(storage.read_bytes(path)).hexdigest() for path in paths}


def assert_whole(out: str, way: str) -> None:
    """A reader finds the version before or the new one, with every byte it lists; or nothing yet."""
    if way == "ingest" and not has_manifest(out):
        return
    wrong = [finding for finding in verify(out).findings if finding.rule != "unlisted"]
    assert not wrong, wrong
    for version in range(1, read_manifest(out).version + 1):
        assert read_manifest(out, version).version == version


def explore(
    new_out: Iterator[str], base: Path, media: Path, way: str, one_process: OneProcess, faults: Faults, share: float
) -> int:
    """Dies at every operation and moment (or a share of them, drawn), and compares; returns how many were tried."""
    out = copy_of(base, next(new_out))
    faults.start(None)
    one_process.life()
    ingest(out, media, way)
    operations, expected = list(faults.operations), digests(open_storage(out))
    assert not any("tmp" in name or "_ingest" in name or "lock" in name for name in expected), expected
    draw, tried = random.Random(0), 0
    for at in range(len(operations)):
        for moment in MOMENTS:
            if draw.random() >= share or (moment == "after" and at + 1 < len(operations)):
                continue
            out = copy_of(base, next(new_out))
            # Tasks run in another order each time, so a number may name another operation.
            faults.start(at, moment)
            one_process.life()
            with pytest.raises(Killed):
                ingest(out, media, way)
            tried += 1
            faults.start(None)
            what = f"killed {moment} operation {at} of {operations}"
            assert_whole(out, way)
            one_process.life()
            ingest(out, media, way)
            assert digests(open_storage(out)) == expected, what
    return tried


def copy_of(base: Path, out: str) -> str:
    storage = open_storage(out)
    for path in sorted(base.rglob("*")):
        if path.is_file():
            storage.write_atomic(path.relative_to(base).as_posix(), path.read_bytes())
    return out


@pytest.mark.parametrize("way", WAYS)
def test_killed_at_any_storage_operation(
    way: str,
    bases: dict[str, Path],
    media: Path,
    one_process: OneProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outs = (str(tmp_path / str(number)) for number in range(10**6))
    tried = explore(outs, bases[way], media, way, one_process, Faults(monkeypatch), share=1.0)
    assert tried >= 2 * 20
    print(f"{way}: {tried} kill points")


@pytest.mark.slow
@pytest.mark.parametrize("way", ["ingest", "append"])
def test_killed_on_s3(
    way: str,
    bases: dict[str, Path],
    media: Path,
    one_process: OneProcess,
    unruly: UnrulyS3,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outs = (f"s3://{BUCKET}/{way}/{number}" for number in range(10**6))
    share = float(os.environ.get("VAMBA_TEST_S3_KILLS", "0.15"))
    tried = explore(outs, bases[way], media, way, one_process, Faults(monkeypatch, S3Storage), share)
    print(f"{way} on S3: {tried} kill points")


@pytest.mark.parametrize("way", WAYS)
def test_killed_again_and_again(
    way: str,
    bases: dict[str, Path],
    media: Path,
    one_process: OneProcess,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Up to five kills on the way, at operations drawn from a seed."""
    faults = Faults(monkeypatch)
    one_process.life()
    undisturbed = copy_of(bases[way], str(tmp_path / "undisturbed"))
    ingest(undisturbed, media, way)
    draw = random.Random(way)
    for number in range(6):
        out = copy_of(bases[way], str(tmp_path / str(number)))
        for _ in range(draw.randint(2, 5)):
            faults.start(draw.randrange(12), draw.choice(MOMENTS))
            one_process.life()
            with contextlib.suppress(Killed):
                ingest(out, media, way)
            faults.start(None)
            assert_whole(out, way)
        one_process.life()
        ingest(out, media, way)
        assert digests(open_storage(out)) == digests(open_storage(undisturbed)), number


def test_one_that_slept_through_another_ingest_changes_nothing(
    bases: dict[str, Path], media: Path, one_process: OneProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An append falls asleep after any of its operations; another, of something else, takes over and ends meanwhile."""
    faults = Faults(monkeypatch)
    other = IngestConfig(sources=(str(media / "whole.mp4"),), out="later", **SHAPE)  # type: ignore[arg-type]
    out = copy_of(bases["append"], str(tmp_path / "undisturbed"))
    faults.start(None)
    ingest(out, media, "append")
    operations = list(faults.operations)
    published = next(n for n, operation in enumerate(operations) if operation == "replace manifest.parquet")
    assert published > 10
    assert operations[:2] == ["create ingest.lock"] * 2  # only then it has the lock
    for at in range(2, published):
        # The next write is within the two minutes that a renewal buys; here, where the other starts at once, it is not.
        if operations[at] in ("replace ingest.lock", "write_atomic failures-v00002.parquet"):
            continue
        out = copy_of(bases["append"], str(tmp_path / str(at)))
        after: dict[str, str] = {}

        def takes_over(out: str = out, after: dict[str, str] = after) -> None:
            one_process.life()
            run_ingest(replace(other, out=out), Silent(), Request(append=True))
            after.update(digests(open_storage(out)))

        faults.start(at)
        faults.meanwhile = takes_over
        one_process.life()
        with pytest.raises(LeaseLost):
            ingest(out, media, "append")
        faults.meanwhile = None
        faults.start(None)
        what = f"asleep after operation {at} of {operations}"
        assert_whole(out, "append")
        kept = digests(open_storage(out))
        assert {name: kept.get(name) for name in after} == after, what
        assert all(name.startswith("_ingest/") for name in set(kept) - set(after)), what
