"""Checks a whole dataset: manifest, failures, every shard and every sample in it.

manifest + listing of `shards/` ──> a task per shard, in processes ──> findings, ordered by shard. Nothing is repaired
or deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from pipelines.datasets.pool import in_processes
from pipelines.datasets.verify_shard import Finding, ShardTask, check_shard
from pipelines.manifest_io import FAILURES_NAME, MANIFEST_NAME, SHARDS_PREFIX, read_failures, read_manifest
from pipelines.shard_index import names_beside
from pipelines.storage import Storage, open_storage
from vamba.data.manifest import Manifest

Progress = Callable[[int, int, int], None]
"""(shards done, shards in all, bytes read)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What was checked and what is wrong. decoded: whether every frame was decoded."""

    uri: str
    digest: str  # of the manifest; empty where it can't be read
    decoded: bool
    num_shards: int
    num_samples: int
    num_frames: int
    size_bytes: int
    findings: tuple[Finding, ...]

    @property
    def clean(self) -> bool:
        return not self.findings


def verify(
    data: str, *, decode: bool = False, num_processes: int = 1, progress: Progress | None = None
) -> Verification:
    """Reads every byte of the dataset once.

    Raises:
        FileNotFoundError: there is no finished dataset.
    """
    storage = open_storage(data)
    manifest = _manifest(data)
    if isinstance(manifest, Finding):
        return _verification(storage, None, decode, 0, 0, [manifest])
    sizes = {entry.path.removeprefix(f"{SHARDS_PREFIX}/"): entry.size_bytes for entry in storage.list(SHARDS_PREFIX)}
    findings = [*_failures(data), *_listing(manifest, sizes)]
    tasks = list(_tasks(data, manifest, sizes, decode))
    num_frames = size_bytes = 0
    for number, check in enumerate(in_processes(check_shard, tasks, num_processes), start=1):
        findings += check.findings
        num_frames, size_bytes = num_frames + check.num_frames, size_bytes + check.size_bytes
        if progress is not None:
            progress(number, len(tasks), size_bytes)
    return _verification(storage, manifest, decode, num_frames, size_bytes, findings)


def _manifest(data: str) -> Manifest | Finding:
    try:
        return read_manifest(data)
    except (FileNotFoundError, PermissionError, ConnectionError):
        raise
    except Exception as error:
        # Damaged bytes make the Parquet reader raise almost anything.
        return _finding("", "manifest", f"{MANIFEST_NAME} can't be read: {error}")


def _failures(data: str) -> Iterator[Finding]:
    try:
        read_failures(data)
    except FileNotFoundError:
        yield _finding("", "failures", f"{FAILURES_NAME} is missing; without failures it is there and has no rows")
    except Exception as error:
        yield _finding("", "failures", f"{FAILURES_NAME} can't be read: {error}")


def _listing(manifest: Manifest, sizes: dict[str, int]) -> Iterator[Finding]:
    listed = {shard.name for shard in manifest.shards}
    for name in sorted(listed - set(sizes)):
        yield _finding(name, "missing", "the manifest lists it, but the file is not there")
    for name in sorted(set(sizes) - names_beside(listed)):
        yield _finding(name, "unlisted", "the file is there, but the manifest does not list it: nothing reads it")


def _tasks(data: str, manifest: Manifest, sizes: dict[str, int], decode: bool) -> Iterator[ShardTask]:
    rows = {name: tuple(group) for name, group in groupby(manifest.samples, key=lambda row: row.shard)}
    for shard in manifest.shards:
        if shard.name in sizes:
            own = rows.get(shard.name, ())
            yield ShardTask(data=data, shard=shard, rows=own, size_bytes=sizes[shard.name], decode=decode)


def _verification(
    storage: Storage,
    manifest: Manifest | None,
    decode: bool,
    num_frames: int,
    size_bytes: int,
    findings: list[Finding],
) -> Verification:
    return Verification(
        uri=storage.uri,
        digest=manifest.digest if manifest else "",
        decoded=decode,
        num_shards=len(manifest.shards) if manifest else 0,
        num_samples=len(manifest.samples) if manifest else 0,
        num_frames=num_frames,
        size_bytes=size_bytes,
        # Processes finish in any order; the order of the manifest is kept within a shard.
        findings=tuple(sorted(findings, key=lambda finding: finding.shard)),
    )


def _finding(shard: str, rule: str, message: str) -> Finding:
    return Finding(shard=shard, sample="", rule=rule, message=message)
