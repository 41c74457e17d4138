"""The reader over real storage: the same batches from a folder and from S3, also when S3 fails half of the reads."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.s3 import S3Storage
from pipelines.shard_ranges import ShardRanges
from pipelines.storage import LocalStorage
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401 - fixtures
from tests.vamba.data.shards import CONFIG, Shards, encoder, write_shards
from vamba.data.fetch import ReadRange
from vamba.data.reader import PackReader


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    folder = tmp_path / "shards"
    folder.mkdir()
    return write_shards(folder, num_samples=12)


def epoch(shards: Shards, read_range: ReadRange) -> list[tuple[tuple[str, ...], bytes]]:
    plan = shards.plan()
    config = replace(CONFIG, retry_reads_for_s=60.0, read_workers=4)
    with PackReader(plan, shards.rows, read_range, encoder(), state=plan.start(), config=config) as reader:
        steps = [next(reader)[0] for _ in plan.steps(0)]
    batches = [micro.batch for step in steps for micro in step.micro_batches]
    return [(b.sample_ids, b.patches_PC.numpy().tobytes()) for b in batches if b.patches_PC is not None]


def test_a_folder_and_s3_give_the_same_batches(shards: Shards, tmp_path: Path, s3: S3Server) -> None:  # noqa: F811
    bucket = s3.make_bucket()
    s3.put_folder(tmp_path, bucket, "data/")
    remote = ShardRanges(S3Storage(f"s3://{bucket}/data"))
    local = ShardRanges(LocalStorage(tmp_path))
    assert local.read_into is not None and remote.read_into is None
    expected = epoch(shards, local)
    assert epoch(shards, remote) == expected == epoch(shards, shards.read_range)


def test_a_storage_that_fails_half_of_the_reads_changes_nothing(shards: Shards, tmp_path: Path) -> None:
    ranges = ShardRanges(LocalStorage(tmp_path))
    lock, failed = threading.Lock(), set[int]()

    def flaky(shard: str, offset: int, length: int) -> bytes:
        with lock:
            if offset not in failed:
                failed.add(offset)
                raise OSError("503 Slow Down")
        return ranges(shard, offset, length)

    assert epoch(shards, flaky) == epoch(shards, ranges)


def test_a_cut_shard_ends_before_the_range(shards: Shards, tmp_path: Path) -> None:
    storage = LocalStorage(tmp_path)
    path = shards.folder / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:100])
    target = bytearray(200)
    with pytest.raises(EOFError, match="ends 100 bytes before"):
        storage.read_into("shards/shard-000000.tar", 0, memoryview(target))
    storage.read_into("shards/shard-000000.tar", 20, memoryview(target)[:80])
    assert bytes(target[:80]) == path.read_bytes()[20:]
