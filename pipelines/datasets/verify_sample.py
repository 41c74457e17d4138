"""Checks one sample of a shard: its members, its JSON and its frames against the manifest's row.

Stream at the sample's first header ── header, content, padding of each member ──> JSON and frames, read once. An H.264
stream passes through a temporary file, so that hours of it are not held in memory.
"""

from __future__ import annotations

import json
import tarfile
import tempfile
from collections.abc import Callable
from typing import IO, Any

from pipelines.datasets.shard_stream import BLOCK_BYTES, WHOLE_PIECES_BYTES, ShardStream, read_header
from pipelines.datasets.verify_h264 import h264_problem
from pipelines.shard_index import MemberRange
from vamba.data.frames import recorded_tokens
from vamba.data.manifest import SampleRow
from vamba.data.sample import Conversation, frame_name, store_of, video_name

_EQUAL_KEYS = ("id", "media", "split", "source_uri", "source_digest", "duration_ns", "width", "height")
_SPOOL_BYTES = 64 << 20

Report = Callable[..., None]
"""(rule, message, sample) of something that is wrong."""


class Broken(Exception):
    """A rule that the sample breaks, after which its remaining bytes mean nothing."""

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


class SampleCheck:
    """Reads the row's range and leaves the stream at its end.

    num_frames: that were looked at. members: where the sample's members are; none where it is broken.
    """

    def __init__(self, stream: ShardStream, row: SampleRow, *, decode: bool, report: Report) -> None:
        self.num_frames = 0
        self.members: list[MemberRange] = []
        self._stream, self._row, self._decode, self._report = stream, row, decode, report
        self._end = row.offset_bytes + row.size_bytes
        try:
            self._check()
        except Broken as broken:
            self.members = []
            report(broken.rule, str(broken), row.id)
        stream.skip(self._end - stream.position)

    def _check(self) -> None:
        row = self._row
        document = _check_document(self._member(f"{row.id}.json"), row, self._report)
        if store_of(document) == "h264":
            self._check_h264(document)
        else:
            self._check_jpegs()
        if self._stream.position != self._end:
            raise Broken("members", f"{self._end - self._stream.position} bytes follow its last frame")

    def _check_jpegs(self) -> None:
        problems = []
        for index in range(self._row.num_frames):
            problem = _jpeg_problem(self._member(frame_name(self._row.id, index)), self._row, self._decode)
            self.num_frames += 1
            if problem:
                problems.append(f"frame {index:06d} {problem}")
        if problems:
            others = f" (and {len(problems) - 1} more frames)" if len(problems) > 1 else ""
            self._report("jpeg", problems[0] + others, self._row.id)

    def _check_h264(self, document: dict[str, Any]) -> None:
        name = video_name(self._row.id)
        with tempfile.SpooledTemporaryFile(max_size=_SPOOL_BYTES) as file:
            self._copy_member(name, file)
            file.seek(0)
            problem = h264_problem(file, self._row, document["timestamps_ns"], decode=self._decode)
        if problem:
            self._report("h264", f"{name} {problem}", self._row.id)
        else:
            self.num_frames += self._row.num_frames

    def _member(self, name: str) -> bytes:
        """The content of the next member, which must have this name."""
        content = self._stream.read(self._header(name))
        self._pass_padding(name)
        return content

    def _copy_member(self, name: str, file: IO[bytes]) -> None:
        left = self._header(name)
        while left:
            piece = self._stream.read(min(left, WHOLE_PIECES_BYTES))
            file.write(piece)
            left -= len(piece)
        self._pass_padding(name)

    def _header(self, name: str) -> int:
        """Size of the next member, which must have this name."""
        begin = self._stream.position
        if begin + BLOCK_BYTES > self._end:
            raise Broken("members", f"{name} is missing: the sample's bytes end before it")
        try:
            member = read_header(self._stream)
        except (tarfile.TarError, ValueError) as error:
            raise Broken("tar", f"no plain tar header for {name} at byte {begin}: {error}") from error
        if member.name != name:
            raise Broken("members", f"{member.name!r} stands at byte {begin}, where {name} belongs")
        if self._stream.position + member.size_bytes + member.padding_bytes > self._end:
            raise Broken("tar", f"{name} claims {member.size_bytes} bytes, more than the sample has")
        found = MemberRange(name=name, offset_bytes=self._stream.position, size_bytes=member.size_bytes)
        self.members.append(found)
        return member.size_bytes

    def _pass_padding(self, name: str) -> None:
        if self._stream.read(-self.members[-1].size_bytes % BLOCK_BYTES).strip(b"\0"):
            raise Broken("tar", f"the padding after {name} is not zero")


def _check_document(content: bytes, row: SampleRow, report: Report) -> dict[str, Any]:
    """Returns the JSON."""
    try:
        document = json.loads(content)
        if not isinstance(document, dict):
            raise ValueError("it is not an object")
        conversations = [Conversation.from_json(item) for item in document["conversations"]]
        times = document["timestamps_ns"]
        store_of(document)
        if not isinstance(times, list) or not isinstance(document["probe"], dict):
            raise ValueError('"timestamps_ns" is a list and "probe" an object')
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
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
    return document


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
