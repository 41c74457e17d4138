"""Packs a shard: the staged segments of its videos, in planned order, become one tar with the same bytes every time.

Data: shard plan → (failed and changed videos left out) → tar members in a local scratch file, hashed as they are
written → fsync, rename into `shards/` → its index → commit record → staged segments removed. The tar is ustar with
mtime 0, owner 0 and mode 0644, so its bytes follow from its samples alone. Two workers may pack one shard at once: both
write the same.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from pipelines.ingest.partial import as_kept, nothing_kept, notice
from pipelines.ingest.reproduce import ffmpeg_command
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import PlannedVideo, ShardCommit, ShardPlan
from pipelines.ingest.unchanged import changed
from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.shard_index import MemberRange, format_index, index_name
from vamba.data.frames import recorded_tokens
from vamba.data.manifest import Failure, SampleRow, ShardRow
from vamba.data.sample import frame_name, sample_header, video_name

_BLOCK_BYTES = 512
_RECORD_BYTES = 10240  # a tar file is padded to whole records


_PIECE_BYTES = 1 << 20


class TarWriter:
    """Writes members of a deterministic tar and hashes what it writes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def add(self, name: str, data: bytes) -> MemberRange:
        """Appends one member; returns where its content is."""
        return self._add(name, len(data), (data,))

    def add_file(self, name: str, path: Path) -> MemberRange:
        """Appends a file, a piece at a time; returns where its content is."""
        with open(path, "rb") as file:
            return self._add(name, path.stat().st_size, iter(lambda: file.read(_PIECE_BYTES), b""))

    def _add(self, name: str, size_bytes: int, pieces: Iterable[bytes]) -> MemberRange:
        info = tarfile.TarInfo(name)
        info.size = size_bytes
        info.mode = 0o644
        self._write(info.tobuf(tarfile.USTAR_FORMAT))
        member = MemberRange(name=name, offset_bytes=self.size_bytes, size_bytes=size_bytes)
        for piece in pieces:
            self._write(piece)
        self._write(bytes(-size_bytes % _BLOCK_BYTES))
        return member

    def finish(self) -> str:
        """Ends the tar; returns its sha256 as 64 hex digits."""
        self._write(bytes(2 * _BLOCK_BYTES))
        self._write(bytes(-self.size_bytes % _RECORD_BYTES))
        return self._sha256.hexdigest()

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha256.update(data)
        self.size_bytes += len(data)


def pack_if_complete(staging: Staging, name: str, num_segments: int) -> bool:
    """Packs the shard if all its segments are done and nobody has packed it; says whether this call did.

    Whoever finishes a segment calls this, so the last one packs, wherever it runs; no worker waits for another.
    """
    if staging.is_committed(name) or len(staging.done_segments(name)) < num_segments:
        return False
    try:
        commit = pack_shard(staging, staging.read_shard(name))
    except FileNotFoundError:
        if staging.is_committed(name):  # another worker was faster and has removed the segments
            return False
        raise
    staging.write_commit(name, commit)
    staging.drop_segments(name)
    return True


def pack_shard(staging: Staging, plan: ShardPlan) -> ShardCommit:
    """Writes the tar of a shard from its staged segments.

    Raises:
        FileNotFoundError: a segment is not staged.
    """
    videos, failures = [], []
    changes = changed(plan.videos)
    for video in plan.videos:
        failure = changes.get(video.source.id) or _first_failure(staging, plan.name, video)
        kept = None if failure is not None else _kept(staging, plan.name, video)
        if kept is not None and kept.timestamps_ns:
            videos.append(kept)
            failure = notice(kept)
        elif kept is not None:
            failure = nothing_kept(kept)
        if failure is not None:
            command = ffmpeg_command(video.source.location, video.stream_index)
            failures.append(replace(failure, command=command))
    if not videos:
        return ShardCommit(shard=None, samples=(), failures=tuple(failures))
    descriptor, scratch = tempfile.mkstemp(prefix=plan.name, suffix=".tmp", dir=staging.scratch_dir())
    try:
        with os.fdopen(descriptor, "wb") as file:
            writer = TarWriter(file)
            members = [_add_video(writer, staging, plan.name, video) for video in videos]
            sha256 = writer.finish()
        os.chmod(scratch, 0o644)
        staging.check_holder()
        staging.storage.put_file(f"{SHARDS_PREFIX}/{plan.name}", Path(scratch))
    finally:
        Path(scratch).unlink(missing_ok=True)
    index = format_index(members)
    staging.check_holder()
    staging.storage.write_atomic(f"{SHARDS_PREFIX}/{index_name(plan.name)}", index)
    shard = ShardRow(
        name=plan.name,
        size_bytes=writer.size_bytes,
        sha256=sha256,
        num_samples=len(videos),
        index_sha256=hashlib.sha256(index).hexdigest(),
    )
    rows = tuple(_row(plan.name, video, own) for video, own in zip(videos, members, strict=True))
    return ShardCommit(shard=shard, samples=rows, failures=tuple(failures))


def _first_failure(staging: Staging, shard: str, video: PlannedVideo) -> Failure | None:
    failures = (staging.read_segment_failure(shard, segment.name) for segment in video.segments)
    return next((failure for failure in failures if failure is not None), None)


def _kept(staging: Staging, shard: str, video: PlannedVideo) -> PlannedVideo:
    """The video without the frames that its segments lost."""
    losses = {segment.name: staging.read_segment_loss(shard, segment.name) for segment in video.segments}
    found = {name: loss for name, loss in losses.items() if loss is not None and loss[0]}
    reason = next((why for _, why in found.values()), None)
    return as_kept(video, {name: lost for name, (lost, _) in found.items()}, reason)


def _add_video(writer: TarWriter, staging: Staging, shard: str, video: PlannedVideo) -> list[MemberRange]:
    source_id, frames = video.source.id, _frames(staging, shard, video)
    members = [writer.add(f"{source_id}.json", _header(video))]
    if video.store == "h264":
        members.append(_add_h264(writer, video_name(source_id), frames, video, staging.scratch_dir()))
    else:
        members += [writer.add(frame_name(source_id, index), frame) for index, frame in enumerate(frames)]
        assert len(members) == 1 + len(video.timestamps_ns), (source_id, len(members), len(video.timestamps_ns))
    return members


def _add_h264(
    writer: TarWriter, name: str, units: Iterator[bytes], video: PlannedVideo, scratch_dir: Path
) -> MemberRange:
    from pipelines.ingest.h264 import write_mp4  # loads PyAV, which packing JPEG files does without

    descriptor, scratch = tempfile.mkstemp(prefix=name, suffix=".tmp", dir=scratch_dir)
    os.close(descriptor)
    try:
        write_mp4(Path(scratch), units, video.timestamps_ns, video.duration_ns)
        return writer.add_file(name, Path(scratch))
    finally:
        Path(scratch).unlink(missing_ok=True)


def _row(shard: str, video: PlannedVideo, members: list[MemberRange]) -> SampleRow:
    source = video.source
    offset_bytes, last = members[0].offset_bytes - _BLOCK_BYTES, members[-1]
    end_bytes = last.offset_bytes + last.size_bytes + -last.size_bytes % _BLOCK_BYTES
    return SampleRow(
        id=source.id,
        shard=shard,
        offset_bytes=offset_bytes,
        size_bytes=end_bytes - offset_bytes,
        split=video.split,  # type: ignore[arg-type]
        media=source.media,
        duration_ns=video.duration_ns,
        num_frames=len(video.timestamps_ns),
        width=video.width,
        height=video.height,
        num_conversations=len(source.conversations),
        source_uri=source.uri,
        source_digest=video.digest,
        num_tokens=recorded_tokens(len(video.timestamps_ns), video.width, video.height),
    )


def _frames(staging: Staging, shard: str, video: PlannedVideo) -> Iterator[bytes]:
    for segment in video.segments:
        yield from staging.read_segment(shard, segment.name)


def _header(video: PlannedVideo) -> bytes:
    return sample_header(
        id=video.source.id,
        media=video.source.media,
        split=video.split,
        source_uri=video.source.uri,
        source_digest=video.digest,
        duration_ns=video.duration_ns,
        width=video.width,
        height=video.height,
        timestamps_ns=video.timestamps_ns,
        conversations=video.source.conversations,
        probe=video.probe,
        store=video.store,
    )
