"""Runs the stages of an ingest in the test's own process, without Ray."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.lock import destination_lock
from pipelines.ingest.plan import plan_shards
from pipelines.ingest.rows import SOURCE_SCHEMA, probed_from_table, source_row
from pipelines.ingest.stages import decode_task, probe_task
from pipelines.ingest.staging import BatchPlan, Staging
from pipelines.ingest.tasks import decode_tasks
from pipelines.ingest.types import PlannedVideo, ShardCommit, VideoSource
from pipelines.manifest_io import build_manifest, write_failures, write_manifest
from pipelines.storage import open_storage
from vamba.data.manifest import Failure, SampleRow
from vamba.data.sample import Conversation, Media, Sample, Turn


def source(path: Path, media: Media, caption: str = "") -> VideoSource:
    turns = (Turn(speaker="human", value="<image>\nDescribe."), Turn(speaker="gpt", value=caption))
    return VideoSource(
        id=path.stem,
        uri=str(path),
        size_bytes=path.stat().st_size,
        mtime_ns=0,
        split="train",
        conversations=(Conversation(id="c", turns=turns),) if caption else (),
        media=media,
    )


def ingested(sources: list[VideoSource], out: Path, **settings: Any) -> tuple[list[ShardCommit], list[Failure]]:
    """The stages of an ingest, in this process."""
    config = IngestConfig(sources=("-",), out=str(out), **settings)
    table = pa.Table.from_pylist([{"source": source_row(item)} for item in sources], schema=SOURCE_SCHEMA)
    results = probed_from_table(probe_task(table, config=config))
    planned = [item for item in results if isinstance(item, PlannedVideo)]
    shards = plan_shards(planned, config.target_shard_bytes)
    with destination_lock(open_storage(str(out))) as lease:
        staging = Staging(str(out), "sha256:" + "0" * 64, lease.holder)
        staging.write_plan(0, BatchPlan(last_id="~", results=tuple(results)), shards)
        for task in decode_tasks(shards, set(), set(), config.segment_cost_s, 1):
            decode_task(task, config=config, staging_key=staging.key, holder=staging.holder)
        commits = [staging.read_commit(shard.name) for shard in shards]
        staging.remove_all()
    failures = [item for item in results if isinstance(item, Failure)]
    failures += [failure for commit in commits for failure in commit.failures]
    manifest = build_manifest(
        [commit.shard for commit in commits if commit.shard],
        [row for commit in commits for row in commit.samples],
        config_digest=config.digest,
        inputs_digest="sha256:" + "1" * 64,
        version=1,
    )
    write_failures(str(out), failures)
    write_manifest(str(out), manifest)
    return commits, failures


def sample_of(row: SampleRow, out: Path) -> Sample:
    """A sample, read back from its shard."""
    content = open_storage(str(out)).read_range(f"shards/{row.shard}", row.offset_bytes, row.size_bytes)
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return Sample.from_members([(info.name, tar.extractfile(info).read()) for info in tar])  # type: ignore[union-attr]
