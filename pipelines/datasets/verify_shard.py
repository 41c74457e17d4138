"""Checks one shard against the manifest's rows: every byte is hashed, every sample is read at its offset.

ShardTask ── one forward pass: sha256, tar headers, samples (verify_sample.py) ──> ShardCheck with what is wrong. A
sample that breaks a rule costs only itself: the next one is read where the manifest says it begins. Where the members
were found is compared with the index beside the shard.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.datasets.shard_stream import BLOCK_BYTES, WHOLE_PIECES_BYTES, ShardStream
from pipelines.datasets.verify_sample import Report, SampleCheck
from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.shard_index import MemberRange, index_name, parse_index
from pipelines.storage import Storage, open_storage
from vamba.data.manifest import SampleRow, ShardRow

_RECORD_BYTES = 10240  # tar programs pad their output to whole records


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is wrong. rule: a short stable word, listed in docs/data.md."""

    shard: str
    sample: str
    rule: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardTask:
    """A shard to check. size_bytes: of the file that is there, whatever the manifest says."""

    data: str
    shard: ShardRow
    rows: tuple[SampleRow, ...]
    size_bytes: int
    decode: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCheck:
    """What was read, and what is wrong with it."""

    name: str
    size_bytes: int
    num_frames: int
    findings: tuple[Finding, ...]


def check_shard(task: ShardTask) -> ShardCheck:
    """Reads the whole shard once."""
    shard, found, members = task.shard, [], dict[str, Sequence[MemberRange]]()

    def report(rule: str, message: str, sample: str = "") -> None:
        found.append(Finding(shard=shard.name, sample=sample, rule=rule, message=message))

    if task.size_bytes != shard.size_bytes:
        report("size", f"the file has {task.size_bytes} bytes, the manifest says {shard.size_bytes}")
    if len(task.rows) != shard.num_samples:
        report("count", f"the manifest lists {len(task.rows)} samples and says {shard.num_samples}")
    digest, storage, end = hashlib.sha256(), open_storage(task.data), task.size_bytes
    stream = ShardStream(storage, shard.name, begin=0, end=end, chunk_bytes=WHOLE_PIECES_BYTES, digest=digest)
    num_frames = 0
    try:
        for row in task.rows:
            if _is_in_place(stream, row, task, report):
                check = SampleCheck(stream, row, decode=task.decode, report=report)
                num_frames += check.num_frames
                if check.members:
                    members[row.id] = check.members
        _check_end(stream, task.size_bytes, report)
        if task.size_bytes == shard.size_bytes and digest.hexdigest() != shard.sha256:
            report("sha256", f"the bytes have sha256 {digest.hexdigest()}, the manifest says {shard.sha256}")
        _check_index(storage, task, members, report)
    except (OSError, EOFError) as error:
        report("unreadable", f"reading stopped at byte {stream.position}: {error}")
    return ShardCheck(name=shard.name, size_bytes=task.size_bytes, num_frames=num_frames, findings=tuple(found))


def _is_in_place(stream: ShardStream, row: SampleRow, task: ShardTask, report: Report) -> bool:
    """Whether the row's range can be read; then the stream is left at its beginning."""
    end = row.offset_bytes + row.size_bytes
    if row.offset_bytes < stream.position:
        report("offset", f"begins at byte {row.offset_bytes}, inside what stands before it", row.id)
        return False
    if end > task.size_bytes:
        report("offset", f"ends at byte {end}, but the file has {task.size_bytes} bytes", row.id)
        return False
    if row.offset_bytes > stream.position:
        report("offset", f"{row.offset_bytes - stream.position} bytes before it belong to no sample", row.id)
        stream.skip(row.offset_bytes - stream.position)
    return True


def _check_end(stream: ShardStream, size_bytes: int, report: Report) -> None:
    rest_bytes = size_bytes - stream.position
    begin, zero = stream.position, True
    while stream.position < size_bytes:
        zero &= not stream.read(min(BLOCK_BYTES, size_bytes - stream.position)).strip(b"\0")
    if not zero:
        report("end", f"after the last sample, at byte {begin}, stand bytes that belong to no sample")
    elif not 2 * BLOCK_BYTES <= rest_bytes < 2 * BLOCK_BYTES + _RECORD_BYTES:
        report("end", f"the tar ends with {rest_bytes} zero bytes; two blocks of {BLOCK_BYTES}, padded to a record, do")


def _check_index(storage: Storage, task: ShardTask, found: Mapping[str, Sequence[MemberRange]], report: Report) -> None:
    """`found` holds the samples that are whole: only these can be compared."""
    name, recorded = index_name(task.shard.name), task.shard.index_sha256
    try:
        data = storage.read_bytes(f"{SHARDS_PREFIX}/{name}")
    except FileNotFoundError:
        if recorded is not None:
            report("index", f"{name} is not there; reading single frames is slow without it")
        return
    digest = hashlib.sha256(data).hexdigest()
    if recorded is not None and digest != recorded:
        report("index", f"{name} has sha256 {digest}, the manifest says {recorded}")
    try:
        index = parse_index(data)
    except ValueError as error:
        report("index", f"{name} can't be read: {error}")
        return
    wrong = [row.id for row in task.rows if row.id in found and index.get(row.id) != tuple(found[row.id])]
    wrong += sorted(set(index) - {row.id for row in task.rows})
    if wrong:
        others = f" (and {len(wrong) - 1} more samples)" if len(wrong) > 1 else ""
        report("index", f"{name} differs from the shard{others}", wrong[0])
