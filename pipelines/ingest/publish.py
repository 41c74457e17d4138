"""Publishes what an ingest made: a dataset, or a further version of one.

Order: shards are there already → the records of the batches are merged into tables → shards of abandoned plans are
removed → the manifest that is replaced is kept under its version → inputs → failures → manifest. Until the last of
these steps a reader sees the version before, whole; it is one rename or put, refused if the version before is another
one by then. Interrupted anywhere, the whole is done again with the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Work
from pipelines.ingest.lock import Lease
from pipelines.ingest.staging import Staging
from pipelines.manifest_io import FAILURE_SCHEMA, SAMPLE_SCHEMA, SHARDS_PREFIX, keep_manifest
from pipelines.manifest_tables import (
    StoredVersion,
    check_samples,
    concat,
    digest_of_inputs,
    read_failure_table,
    table_of,
    write_failure_table,
    write_inputs,
    write_manifest_table,
)
from pipelines.shard_index import names_beside
from vamba.data.manifest import Manifest, ShardRow


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """A version of the dataset, as the summary tells it."""

    header: Manifest  # without samples
    digest: str
    num_samples: int
    num_frames: int
    duration_ns: int
    failures: pa.Table  # of the whole dataset
    num_failed: int  # in this run

    def failure_classes(self) -> dict[str, int]:
        """How many failures there are of each class."""
        return dict(sorted(Counter(self.failures.column("error_class").to_pylist()).items()))


def current(version: StoredVersion, failures: pa.Table | None = None, num_failed: int = 0) -> Published:
    """A version that is published already."""
    frames, duration_ns = 0, 0
    for batch in version.batches():
        frames += pc.sum(batch.column("num_frames")).as_py() or 0
        duration_ns += pc.sum(batch.column("duration_ns")).as_py() or 0
    return Published(
        header=version.header,
        digest=version.digest,
        num_samples=version.num_samples,
        num_frames=frames,
        duration_ns=duration_ns,
        failures=read_failure_table(version.data_uri, version.version) if failures is None else failures,
        num_failed=num_failed,
    )


def publish(config: IngestConfig, work: Work, staging: Staging, num_batches: int, lease: Lease) -> Published:
    """Publishes what the batches made.

    A retry that changes nothing about the samples and inputs renews the failures and publishes no version.

    Raises:
        ValueError: somebody else has published a version in the meantime.
        LeaseLost: somebody else has taken the destination over.
    """
    base = work.base
    merged = _merge(staging, num_batches)
    shards = sorted([*(base.header.shards if base else ()), *merged.shards], key=lambda shard: shard.name)
    header = Manifest(
        version=base.version + 1 if base else 1,
        config_digest=config.digest,
        inputs_digest=digest_of_inputs(work.comparison.inputs()),
        shards=tuple(shards),
        samples=(),
    )
    failures = concat(FAILURE_SCHEMA, [*_kept_failures(config.out, work), merged.failures])
    _remove_unlisted(staging, header, lease)
    if base is not None and not merged.samples.num_rows and base.header.inputs_digest == header.inputs_digest:
        lease.confirm()
        write_failure_table(config.out, failures, base.version)
        staging.remove_all()
        return current(base, failures, merged.failures.num_rows)
    # Shards of a new version come behind those of the base, and their rows are in order.
    before = [pa.Table.from_batches(base.batches(), base.schema)] if base is not None else []
    samples = concat(SAMPLE_SCHEMA, [*before, merged.samples])
    digest = check_samples(header, samples)
    replaced = keep_manifest(config.out, base) if base is not None else None
    lease.confirm()
    write_inputs(config.out, header.version, work.comparison.inputs())
    lease.confirm()
    write_failure_table(config.out, failures, header.version)
    lease.confirm()
    write_manifest_table(config.out, header, digest, samples, over=replaced)
    staging.remove_all()
    return Published(
        header=header,
        digest=digest,
        num_samples=samples.num_rows,
        num_frames=pc.sum(samples.column("num_frames")).as_py() or 0,
        duration_ns=pc.sum(samples.column("duration_ns")).as_py() or 0,
        failures=failures,
        num_failed=merged.failures.num_rows,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Merged:
    """What all batches made."""

    shards: list[ShardRow]
    samples: pa.Table
    failures: pa.Table


def _merge(staging: Staging, num_batches: int) -> _Merged:
    shards: list[ShardRow] = []
    samples, failures = [], []
    for batch in range(num_batches):
        record = staging.read_batch(batch)
        shards += [ShardRow(**shard) for shard in record.shards]
        samples.append(table_of(SAMPLE_SCHEMA, record.samples))
        failures.append(table_of(FAILURE_SCHEMA, record.failures))
    return _Merged(shards=shards, samples=concat(SAMPLE_SCHEMA, samples), failures=concat(FAILURE_SCHEMA, failures))


def _kept_failures(out: str, work: Work) -> Iterator[pa.Table]:
    """The failures of the dataset that this run did not try again."""
    if work.base is None:
        return
    before = read_failure_table(out, work.base.version)
    yield before.filter(
        pa.array([not work.comparison.is_todo(name) for name in before.column("id").to_pylist()], pa.bool_())
    )


def _remove_unlisted(staging: Staging, manifest: Manifest, lease: Lease) -> None:
    """Removes shards and indexes of an earlier plan, from before a source changed."""
    listed = names_beside(shard.name for shard in manifest.shards)
    for entry in staging.storage.list(SHARDS_PREFIX):
        if entry.path.rpartition("/")[2] not in listed:
            lease.confirm()
            staging.storage.delete(entry.path)
