"""Publishes what an ingest made: a dataset, or a further version of one.

Order: shards are there already → those of abandoned plans are removed → the manifest that is replaced is kept under
its version → inputs → failures → manifest. Until the last of these steps a reader sees the version before, whole; it is
one rename or put, refused if the version before is another one by then. Interrupted anywhere, the whole is done again
with the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Work, inputs_digest
from pipelines.ingest.lock import Lease
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import ShardCommit
from pipelines.manifest_io import (
    SHARDS_PREFIX,
    build_manifest,
    keep_manifest,
    read_failures,
    write_failures,
    write_inputs,
    write_manifest,
)
from vamba.data.manifest import Failure, Manifest


def publish(
    config: IngestConfig, work: Work, staging: Staging, commits: Sequence[ShardCommit], lease: Lease
) -> tuple[Manifest, tuple[Failure, ...]]:
    """Publishes the commits; returns the manifest and all failures of the dataset.

    A retry that changes nothing about the samples and inputs renews the failures and publishes no version.

    Raises:
        ValueError: somebody else has published a version in the meantime.
        LeaseLost: somebody else has taken the destination over.
    """
    base = work.base
    manifest = build_manifest(
        [*(base.shards if base else ()), *(commit.shard for commit in commits if commit.shard is not None)],
        [*(base.samples if base else ()), *(row for commit in commits for row in commit.samples)],
        config_digest=config.digest,
        inputs_digest=inputs_digest(work.inputs),
        version=base.version + 1 if base else 1,
    )
    failures = _failures(config.out, work, commits)
    _remove_unlisted(staging, manifest, lease)
    if base is not None and (base.samples, base.inputs_digest) == (manifest.samples, manifest.inputs_digest):
        lease.confirm()
        write_failures(config.out, failures, base.version)
        staging.remove_all()
        return base, failures
    replaced = keep_manifest(config.out, base) if base is not None else None
    lease.confirm()
    write_inputs(config.out, manifest.version, work.inputs)
    lease.confirm()
    write_failures(config.out, failures, manifest.version)
    lease.confirm()
    write_manifest(config.out, manifest, over=replaced)
    staging.remove_all()
    return manifest, failures


def _failures(out: str, work: Work, commits: Sequence[ShardCommit]) -> tuple[Failure, ...]:
    """The failures of this run beside those of the dataset that it did not try again."""
    tried = {source.id for source in work.sources}
    before = read_failures(out, work.base.version) if work.base is not None else ()
    kept = [failure for failure in before if failure.id not in tried]
    return tuple([*kept, *(failure for commit in commits for failure in commit.failures)])


def _remove_unlisted(staging: Staging, manifest: Manifest, lease: Lease) -> None:
    """Removes shards of an earlier plan, from before a source changed."""
    listed = {shard.name for shard in manifest.shards}
    for entry in staging.storage.list(SHARDS_PREFIX):
        if entry.path.rpartition("/")[2] not in listed:
            lease.confirm()
            staging.storage.delete(entry.path)
