"""Checks one sample of a shard: its members, its JSON and its frames against the manifest's row.

Stream at the sample's first header ── header, content, padding of each member ──> JSON and frames, read once.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.datasets.shard_stream import BLOCK_BYTES, Member, ShardStream, read_header
from pipelines.shard_index import MemberRange
from vamba.data.frames import recorded_tokens
from vamba.data.manifest import SampleRow
from vamba.data.sample import Conversation, frame_name

_EQUAL_KEYS = ("id", "media", "split", "source_uri", "source_digest", "duration_ns", "width", "height")

Report = Callable[..., None]
"""(rule, message, sample) of something that is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCheck:
    """members: where the sample's members are; none where it is broken."""

    num_frames: int
    members: tuple[MemberRange, ...]


class Broken(Exception):
    """A rule that the sample breaks, after which its remaining bytes mean nothing."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


def check_sample(stream: ShardStream, row: SampleRow, *, decode: bool, report: Report) -> SampleCheck:
    """Reads the row's range and leaves the stream at its end."""
    end = row.offset_bytes + row.size_bytes
    members: list[MemberRange] = []
    is_whole = False
    try:
        content, member = _member(stream, f"{row.id}.json", end)
        members.append(member)
        _check_document(content, row, report)
        problems = []
        for index in range(row.num_frames):
            content, member = _member(stream, frame_name(row.id, index), end)
            members.append(member)
            problem = _jpeg_problem(content, row, decode)
            if problem:
                problems.append(f"frame {index:06d} {problem}")
        if problems:
            others = f" (and {len(problems) - 1} more frames)" if len(problems) > 1 else ""
            report("jpeg", problems[0] + others, row.id)
        is_whole = stream.position == end
        if not is_whole:
            report("members", f"{end - stream.position} bytes follow its last frame", row.id)
    except Broken as broken:
        report(broken.rule, str(broken), row.id)
    stream.skip(end - stream.position)
    return SampleCheck(num_frames=max(0, len(members) - 1), members=tuple(members) if is_whole else ())


def _member(stream: ShardStream, name: str, end: int) -> tuple[bytes, MemberRange]:
    begin = stream.position
    if begin + BLOCK_BYTES > end:
        raise Broken("members", f"{name} is missing: the sample's bytes end before it")
    try:
        member: Member = read_header(stream)
    except (tarfile.TarError, ValueError) as error:
        raise Broken("tar", f"no plain tar header for {name} at byte {begin}: {error}") from error
    if member.name != name:
        raise Broken("members", f"{member.name!r} stands at byte {begin}, where {name} belongs")
    if stream.position + member.size_bytes + member.padding_bytes > end:
        raise Broken("tar", f"{name} claims {member.size_bytes} bytes, more than the sample has")
    found = MemberRange(name=name, offset_bytes=stream.position, size_bytes=member.size_bytes)
    content = stream.read(member.size_bytes)
    if stream.read(member.padding_bytes).strip(b"\0"):
        raise Broken("tar", f"the padding after {name} is not zero")
    return content, found


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
        raise Broken("json", f"the JSON is not a sample's: {reason}") from error
    counted: dict[str, Any] = {"num_frames": len(times), "num_conversations": len(conversations)}
    found = {**{key: document.get(key) for key in _EQUAL_KEYS}, **counted}
    if row.num_tokens is not None:
        found["num_tokens"] = recorded_tokens(len(times), row.width, row.height) if times else 0
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
