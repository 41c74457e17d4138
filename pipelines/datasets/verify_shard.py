"""Checks one shard against the manifest's rows: every byte is hashed, every sample is read at its offset.

ShardTask ── one forward pass: sha256, tar headers, JSON, JPEG ──> ShardCheck with what is wrong. A sample that breaks a
rule costs only itself: the next one is read where the manifest says it begins.
"""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.datasets.shard_stream import BLOCK_BYTES, WHOLE_PIECES_BYTES, Member, ShardStream, read_header
from pipelines.storage import open_storage
from vamba.data.manifest import SampleRow, ShardRow
from vamba.data.sample import Conversation, frame_name

_RECORD_BYTES = 10240  # tar programs pad their output to whole records
_EQUAL_KEYS = ("id", "media", "split", "source_uri", "source_digest", "duration_ns", "width", "height")

Report = Callable[..., None]
"""(rule, message, sample) of something that is wrong."""


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


class _Broken(Exception):
    """A rule that the sample breaks, after which its remaining bytes mean nothing."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def check_shard(task: ShardTask) -> ShardCheck:
    """Reads the whole shard once."""
    shard, found, num_frames = task.shard, [], 0

    def report(rule: str, message: str, sample: str = "") -> None:
        found.append(Finding(shard=shard.name, sample=sample, rule=rule, message=message))

    if task.size_bytes != shard.size_bytes:
        report("size", f"the file has {task.size_bytes} bytes, the manifest says {shard.size_bytes}")
    if len(task.rows) != shard.num_samples:
        report("count", f"the manifest lists {len(task.rows)} samples and says {shard.num_samples}")
    digest = hashlib.sha256()
    stream = ShardStream(
        open_storage(task.data),
        shard.name,
        begin=0,
        end=task.size_bytes,
        chunk_bytes=WHOLE_PIECES_BYTES,
        digest=digest,
    )
    try:
        for row in task.rows:
            num_frames += _check_row(stream, row, task, report)
        _check_end(stream, task.size_bytes, report)
        if task.size_bytes == shard.size_bytes and digest.hexdigest() != shard.sha256:
            report("sha256", f"the bytes have sha256 {digest.hexdigest()}, the manifest says {shard.sha256}")
    except (OSError, EOFError) as error:
        report("unreadable", f"reading stopped at byte {stream.position}: {error}")
    return ShardCheck(name=shard.name, size_bytes=task.size_bytes, num_frames=num_frames, findings=tuple(found))


def _check_row(stream: ShardStream, row: SampleRow, task: ShardTask, report: Report) -> int:
    """Leaves the stream at the end of the row's range. Returns the number of frames read."""
    end = row.offset_bytes + row.size_bytes
    if row.offset_bytes < stream.position:
        report("offset", f"begins at byte {row.offset_bytes}, inside what stands before it", row.id)
        return 0
    if end > task.size_bytes:
        report("offset", f"ends at byte {end}, but the file has {task.size_bytes} bytes", row.id)
        return 0
    if row.offset_bytes > stream.position:
        report("offset", f"{row.offset_bytes - stream.position} bytes before it belong to no sample", row.id)
        stream.skip(row.offset_bytes - stream.position)
    num_frames = 0
    try:
        _check_document(_member(stream, f"{row.id}.json", end), row, report)
        problems = []
        for index in range(row.num_frames):
            problem = _jpeg_problem(_member(stream, frame_name(row.id, index), end), row, task.decode)
            num_frames += 1
            if problem:
                problems.append(f"frame {index:06d} {problem}")
        if problems:
            others = f" (and {len(problems) - 1} more frames)" if len(problems) > 1 else ""
            report("jpeg", problems[0] + others, row.id)
        if stream.position != end:
            report("members", f"{end - stream.position} bytes follow its last frame", row.id)
    except _Broken as broken:
        report(broken.rule, str(broken), row.id)
    stream.skip(end - stream.position)
    return num_frames


def _member(stream: ShardStream, name: str, end: int) -> bytes:
    begin = stream.position
    if begin + BLOCK_BYTES > end:
        raise _Broken("members", f"{name} is missing: the sample's bytes end before it")
    try:
        member: Member = read_header(stream)
    except (tarfile.TarError, ValueError) as error:
        raise _Broken("tar", f"no plain tar header for {name} at byte {begin}: {error}") from error
    if member.name != name:
        raise _Broken("members", f"{member.name!r} stands at byte {begin}, where {name} belongs")
    if stream.position + member.size_bytes + member.padding_bytes > end:
        raise _Broken("tar", f"{name} claims {member.size_bytes} bytes, more than the sample has")
    content = stream.read(member.size_bytes)
    if stream.read(member.padding_bytes).strip(b"\0"):
        raise _Broken("tar", f"the padding after {name} is not zero")
    return content


def _check_document(content: bytes, row: SampleRow, report: Report) -> None:
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        conversations = [Conversation.from_json(item) for item in document["conversations"]]
        times = document["timestamps_ns"]
        if not isinstance(times, list) or not isinstance(document["probe"], dict):
            raise ValueError('"timestamps_ns" is a list and "probe" an object')
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise _Broken("json", f"the JSON is not a sample's: {reason}") from error
    counted: dict[str, Any] = {"num_frames": len(times), "num_conversations": len(conversations)}
    found = {**{key: document.get(key) for key in _EQUAL_KEYS}, **counted}
    wrong = [f"{key} is {found[key]!r}, not {getattr(row, key)!r}" for key in found if found[key] != getattr(row, key)]
    if wrong:
        report("row", f"the JSON differs from the manifest: {'; '.join(wrong)}", row.id)
    if not all(type(time) is int for time in times):
        report("timestamps", "timestamps_ns holds something that is not an integer", row.id)
    elif times[:1] < [0] or any(later <= earlier for earlier, later in zip(times, times[1:], strict=False)):
        report("timestamps", "timestamps_ns must be >= 0 and strictly increasing", row.id)


def _jpeg_problem(content: bytes, row: SampleRow, decode: bool) -> str:
    import simplejpeg

    if not content.startswith(b"\xff\xd8") or not content.endswith(b"\xff\xd9"):
        return "is not a complete JPEG: its start or end marker is missing"
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(content)
        if decode:
            simplejpeg.decode_jpeg(content)
    except ValueError as error:
        return f"is not a readable JPEG: {error}"
    return "" if (width, height) == (row.width, row.height) else f"is {width}x{height}, not {row.width}x{row.height}"


def _check_end(stream: ShardStream, size_bytes: int, report: Report) -> None:
    rest_bytes = size_bytes - stream.position
    begin, zero = stream.position, True
    while stream.position < size_bytes:
        zero &= not stream.read(min(BLOCK_BYTES, size_bytes - stream.position)).strip(b"\0")
    if not zero:
        report("end", f"after the last sample, at byte {begin}, stand bytes that belong to no sample")
    elif not 2 * BLOCK_BYTES <= rest_bytes < 2 * BLOCK_BYTES + _RECORD_BYTES:
        report("end", f"the tar ends with {rest_bytes} zero bytes; two blocks of {BLOCK_BYTES}, padded to a record, do")
