"""The ingest job: sources → probe → plan → decode → pack → publish.

`run_ingest` is the driver. It lists the sources, has Ray Data probe and plan them, compares the plan with what earlier
runs left done, has Ray Data decode and pack the rest, and publishes: failures first, the manifest last. Killed at any
moment, the same command continues and ends with the same bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.lock import destination_lock
from pipelines.ingest.plan import group_by_cost, plan_shards
from pipelines.ingest.progress import IngestStatus, Progress, TextProgress
from pipelines.ingest.rows import SOURCE_SCHEMA, TASK_SCHEMA, probed_from_table, source_row
from pipelines.ingest.sources import SourceList, find_sources
from pipelines.ingest.stages import bind, decode_task, probe_task, run_stage
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import PlannedVideo, ShardCommit, ShardPlan, VideoSource
from pipelines.manifest_io import (
    SHARDS_PREFIX,
    build_manifest,
    has_manifest,
    read_failures,
    read_manifest,
    write_failures,
    write_manifest,
)
from pipelines.ray_session import ray_session
from pipelines.storage import open_storage
from vamba.data.manifest import Failure, Manifest, digest_of

_PROBE_BYTES_PER_S = 400e6  # hashing and demuxing, for grouping only
_PROBE_FILE_S = 0.03
_PROBE_TASK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What an ingest made."""

    out: str
    manifest_digest: str  # "sha256:…"
    num_sources: int  # videos asked for
    num_videos: int  # samples in the dataset
    num_frames: int
    num_shards: int
    size_bytes: int  # of all shards
    media_s: float  # duration of the videos in the dataset
    failures: dict[str, int]  # number of failed videos by error class
    seconds: float  # wall time of this run
    was_complete: bool  # the dataset was finished before this run
    num_segments_reused: int  # decoded by earlier runs of this ingest
    budget_passed: bool  # more videos failed than max_failure_fraction allows: exit code 3

    @property
    def real_time_factor(self) -> float:
        """Seconds of media for each second of this run."""
        return self.media_s / self.seconds if self.seconds > 0 else 0.0


def run_ingest(config: IngestConfig, progress: Progress | None = None) -> IngestSummary:
    """Ingests `config.sources` into `config.out`, or continues doing so.

    Raises:
        ValueError: a source or listing is wrong, another ingest is writing there (`DestinationBusy`), or the
            destination holds a finished dataset of other settings or inputs.
        RuntimeError: Ray lost tasks; the same command continues.
    """
    started_s = time.monotonic()
    progress = progress or TextProgress()
    sources = find_sources(config.sources, config.conversations)
    _tell_about_sources(sources, progress)
    if has_manifest(config.out):
        return _finished_before(config, sources, progress, started_s)
    storage = open_storage(config.out)
    with destination_lock(storage):
        if has_manifest(config.out):
            return _finished_before(config, sources, progress, started_s)
        staging = Staging(config.out, _staging_key(config, sources.videos))
        commits, num_reused = _process(config, sources.videos, staging, progress)
        manifest, failures = _publish(config, sources.videos, staging, commits)
    return _summarise(config, sources, manifest, failures, started_s, num_reused=num_reused)


def _process(
    config: IngestConfig, sources: Sequence[VideoSource], staging: Staging, progress: Progress
) -> tuple[list[ShardCommit], int]:
    planned = staging.read_plan()
    shards = _shards(planned, config) if planned is not None else ()
    if planned is None or staging.committed_shards() != {shard.name for shard in shards}:
        progress.note("starting Ray" if config.ray_address is None else f"connecting to Ray at {config.ray_address}")
        with ray_session(config.ray_address, config.num_cpus):
            if planned is None:
                planned = _probe(config, sources, progress)
                shards = _shards(planned, config)
                staging.write_plan(planned, shards)
            num_reused = _decode(config, planned, shards, staging, progress)
    else:
        num_reused = sum(shard.num_segments for shard in shards)
    commits = [staging.read_commit(shard.name) for shard in shards]
    failures = tuple(item for item in planned if isinstance(item, Failure))
    return [*commits, ShardCommit(shard=None, samples=(), failures=failures)], num_reused


def _shards(planned: Sequence[PlannedVideo | Failure], config: IngestConfig) -> tuple[ShardPlan, ...]:
    videos = [item for item in planned if isinstance(item, PlannedVideo)]
    return plan_shards(videos, config.target_shard_bytes)


def _probe(config: IngestConfig, sources: Sequence[VideoSource], progress: Progress) -> list[PlannedVideo | Failure]:
    costs = [_PROBE_FILE_S + max(source.size_bytes, 0) / _PROBE_BYTES_PER_S for source in sources]
    rows = [{"source": source_row(source)} for source in sources]
    tasks = [
        pa.Table.from_pylist([rows[index] for index in group], schema=SOURCE_SCHEMA)
        for group in group_by_cost(costs, _PROBE_TASK_S)
    ]
    results: list[PlannedVideo | Failure] = []
    started_s = time.monotonic()
    for table in run_stage(tasks, bind(probe_task, config=config)):
        results += probed_from_table(table)
        progress.update(
            IngestStatus(
                stage="probe",
                videos_done=len(results),
                num_videos=len(sources),
                media_s=sum(item.duration_ns for item in results if isinstance(item, PlannedVideo)) / 1e9,
                num_failed=sum(isinstance(item, Failure) for item in results),
                elapsed_s=time.monotonic() - started_s,
            )
        )
    return sorted(results, key=lambda item: item.id if isinstance(item, Failure) else item.source.id)


def _decode(
    config: IngestConfig,
    planned: Sequence[PlannedVideo | Failure],
    shards: Sequence[ShardPlan],
    staging: Staging,
    progress: Progress,
) -> int:
    """Decodes and packs what is not done; returns how many segments were done before."""
    committed, done = staging.committed_shards(), staging.done_segments()
    done |= {s.name for shard in shards if shard.name in committed for video in shard.videos for s in video.segments}
    tasks = _decode_tasks(config, shards, committed, done)
    tracker = _DecodeTracker([item for item in planned if isinstance(item, PlannedVideo)], done)
    num_failed = len(planned) - tracker.num_videos
    if done:
        progress.note(f"continuing: {len(done)} of {tracker.num_segments} segments were decoded by an earlier run")
    if tasks:
        work = bind(decode_task, config=config, staging_key=staging.key)
        for table in run_stage(tasks, work):
            for row in table.to_pylist():
                if row["segment"] is not None:
                    tracker.finish(row["segment"], failed=row["error_class"] is not None)
            progress.update(tracker.status(num_failed, len(planned)))
    missing = {shard.name for shard in shards} - staging.committed_shards()
    if missing:
        raise RuntimeError(
            f"{len(missing)} of {len(shards)} shards were not packed, because Ray lost their tasks (see its log). What "
            "is decoded is kept: the same command continues"
        )
    return len(done)


def _decode_tasks(
    config: IngestConfig, shards: Sequence[ShardPlan], committed: set[str], done: set[str]
) -> list[pa.Table]:
    segments, costs = [], []
    pack_only = []
    for shard in shards:
        if shard.name in committed:
            continue
        todo = [(video, segment) for video in shard.videos for segment in video.segments if segment.name not in done]
        if not todo:
            pack_only.append({"segments": [], "shards": [{"name": shard.name, "num_segments": shard.num_segments}]})
        for video, segment in todo:
            common = {"uri": video.source.uri, "codec": video.codec, "stream_index": video.stream_index}
            size = {"width": video.width, "height": video.height, "orientation": video.orientation}
            segments.append({"shard": shard.name, **common, **size, "segment": asdict(segment)})
            costs.append(segment.cost_s)
    counts = {shard.name: shard.num_segments for shard in shards}
    rows = []
    for group in group_by_cost(costs, config.segment_cost_s):
        items = [segments[index] for index in group]
        names = sorted({str(item["shard"]) for item in items})
        rows.append({"segments": items, "shards": [{"name": n, "num_segments": counts[n]} for n in names]})
    return [pa.Table.from_pylist([row], schema=TASK_SCHEMA) for row in pack_only + rows]


class _DecodeTracker:
    """Counts segments until a video is whole."""

    def __init__(self, videos: Sequence[PlannedVideo], done: set[str]) -> None:
        self._left = {video.source.id: len(video.segments) for video in videos}
        self._media_s = {
            video.source.id: video.duration_ns / 1e9 / len(video.segments) for video in videos
        }  # of one segment, on average
        self.num_videos = len(videos)
        self.num_segments = sum(self._left.values())
        self._done_media_s = 0.0
        self._failed: set[str] = set()
        self._started_s = time.monotonic()
        for name in done:
            self._left[name.rpartition(".")[0]] -= 1

    def finish(self, segment: str, *, failed: bool) -> None:
        video_id = segment.rpartition(".")[0]
        self._left[video_id] -= 1
        self._done_media_s += self._media_s[video_id]
        if failed:
            self._failed.add(video_id)

    def status(self, num_failed_before: int, num_sources: int) -> IngestStatus:
        num_whole = sum(left == 0 for left in self._left.values())
        return IngestStatus(
            stage="decode",
            videos_done=num_whole + num_failed_before,
            num_videos=num_sources,
            media_s=self._done_media_s,
            num_failed=num_failed_before + len(self._failed),
            elapsed_s=time.monotonic() - self._started_s,
        )


def _publish(
    config: IngestConfig, sources: Sequence[VideoSource], staging: Staging, commits: Sequence[ShardCommit]
) -> tuple[Manifest, tuple[Failure, ...]]:
    failures = tuple(failure for commit in commits for failure in commit.failures)
    manifest = build_manifest(
        [commit.shard for commit in commits if commit.shard is not None],
        [row for commit in commits for row in commit.samples],
        config_digest=config.digest,
        inputs_digest=_inputs_digest(sources),
    )
    listed = {shard.name for shard in manifest.shards}
    for entry in staging.storage.list(SHARDS_PREFIX):  # of an earlier plan, before a source changed
        if entry.path.rpartition("/")[2] not in listed:
            staging.storage.delete(entry.path)
    write_failures(config.out, failures)
    write_manifest(config.out, manifest)
    staging.remove_all()
    return manifest, failures


def _finished_before(config: IngestConfig, sources: SourceList, progress: Progress, started_s: float) -> IngestSummary:
    manifest = read_manifest(config.out)
    different = []
    if manifest.config_digest != config.digest:
        different.append("settings")
    if manifest.inputs_digest != _inputs_digest(sources.videos):
        different.append("inputs")
    if different:
        raise ValueError(
            f"out is {config.out!r}, where a finished dataset of other {' and '.join(different)} is; choose another "
            "--out, or remove that dataset first"
        )
    progress.note(f"{config.out} is already finished with these settings and inputs; nothing to do")
    Staging(config.out, _staging_key(config, sources.videos)).remove_all()
    failures = read_failures(config.out)
    return _summarise(config, sources, manifest, failures, started_s, num_reused=0, was_complete=True)


def _summarise(
    config: IngestConfig,
    sources: SourceList,
    manifest: Manifest,
    failures: Sequence[Failure],
    started_s: float,
    *,
    num_reused: int,
    was_complete: bool = False,
) -> IngestSummary:
    num_sources = len(sources.videos)
    return IngestSummary(
        out=open_storage(config.out).uri,
        manifest_digest=manifest.digest,
        num_sources=num_sources,
        num_videos=len(manifest.samples),
        num_frames=sum(row.num_frames for row in manifest.samples),
        num_shards=len(manifest.shards),
        size_bytes=sum(shard.size_bytes for shard in manifest.shards),
        media_s=sum(row.duration_ns for row in manifest.samples) / 1e9,
        failures=dict(sorted(Counter(failure.error_class for failure in failures).items())),
        seconds=time.monotonic() - started_s,
        was_complete=was_complete,
        num_segments_reused=num_reused,
        budget_passed=len(failures) > config.max_failure_fraction * num_sources,
    )


def _tell_about_sources(sources: SourceList, progress: Progress) -> None:
    if sources.num_ignored_files:
        progress.note(f"ignored {sources.num_ignored_files} files in the folders that are not named like videos")
    if sources.unmatched:
        progress.note(
            f"the conversations name {len(sources.unmatched)} videos that are not among the sources, "
            f"the first is {sources.unmatched[0]}"
        )


def _inputs_digest(sources: Sequence[VideoSource]) -> str:
    rows = [source_row(source) for source in sources]
    for row in rows:
        del row["mtime_ns"]
    return digest_of(rows)


def _staging_key(config: IngestConfig, sources: Sequence[VideoSource]) -> str:
    # Segments depend on segment_cost_s, though the dataset does not.
    return digest_of([config.digest, config.segment_cost_s, [source_row(source) for source in sources]])
