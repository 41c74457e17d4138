"""The ingest job: sources → probe → plan → decode → pack → publish.

`run_ingest` is the driver. It lists the sources, has Ray Data probe and plan them, compares the plan with what earlier
runs left done, has Ray Data decode and pack the rest, and publishes: failures first, the manifest last. Killed at any
moment, the same command continues and ends with the same bytes. A finished dataset is left alone, unless the request
is to append to it or to retry its failures: then the same stages run on the sources in question, their shards are
numbered behind those that are there, and a further version is published.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import pyarrow as pa

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request, Work, find_work
from pipelines.ingest.limits import sequential_costs_s
from pipelines.ingest.lock import check_free, destination_lock
from pipelines.ingest.plan import group_by_cost, plan_shards
from pipelines.ingest.progress import IngestStatus, Progress, TextProgress
from pipelines.ingest.publish import publish
from pipelines.ingest.rows import SOURCE_SCHEMA, TASK_SCHEMA, probed_from_table, source_row
from pipelines.ingest.sources import SourceList, find_sources
from pipelines.ingest.stages import bind, decode_task, probe_task, run_stage
from pipelines.ingest.staging import WORK_PREFIX, Staging
from pipelines.ingest.types import PlannedVideo, ShardCommit, ShardPlan, VideoSource, shard_name, shard_number
from pipelines.manifest_io import read_failures
from pipelines.ray_session import ray_session
from pipelines.storage import open_storage
from vamba.data.manifest import Failure, Manifest

_PROBE_BYTES_PER_S = 400e6  # hashing and demuxing, for grouping only
_PROBE_FILE_S = 0.03
_PROBE_TASK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What an ingest made."""

    out: str
    manifest_digest: str  # "sha256:…"
    version: int  # of the dataset
    num_sources: int  # videos that this version was asked to hold
    num_videos: int  # samples in the dataset
    num_frames: int
    num_shards: int
    size_bytes: int  # of all shards
    media_s: float  # duration of the videos in the dataset
    failures: dict[str, int]  # number of failed videos by error class
    seconds: float  # wall time of this run
    was_complete: bool  # the dataset was finished before this run, and nothing was to be done
    num_segments_reused: int  # decoded by earlier runs of this ingest
    budget_passed: bool  # of the videos of this run more failed than max_failure_fraction allows: exit code 3

    @property
    def real_time_factor(self) -> float:
        """Seconds of media for each second of this run."""
        return self.media_s / self.seconds if self.seconds > 0 else 0.0


def run_ingest(config: IngestConfig, progress: Progress | None = None, request: Request | None = None) -> IngestSummary:
    """Ingests `config.sources` into `config.out`, or continues doing so; extends a finished dataset if requested.

    Raises:
        ValueError: a source or listing is wrong, another ingest is writing there (`DestinationBusy`), or the
            destination holds a finished dataset of other settings or inputs, which the request does not allow for.
        RuntimeError: Ray lost tasks; the same command continues.
    """
    started_s = time.monotonic()
    progress, request = progress or TextProgress(), request or Request()
    sources = find_sources(config.sources, config.conversations)
    _tell_about_sources(sources, progress)
    storage = open_storage(config.out)
    check_free(storage)
    work = find_work(config, sources.videos, request)
    if work.is_done and not storage.list(WORK_PREFIX):
        return _finished_before(config, work, progress, started_s)
    with destination_lock(storage):
        work = find_work(config, sources.videos, request)  # another ingest may have published until now
        if work.is_done:
            _clean_up(config, sources, request)
            return _finished_before(config, work, progress, started_s)
        for note in work.notes:
            progress.note(note)
        staging = Staging(config.out, work.key(config))
        staging.remove_others()
        commits, num_reused = _process(config, work, staging, progress)
        manifest, failures = publish(config, work, staging, commits)
    num_failed = sum(len(commit.failures) for commit in commits)
    return _summarise(
        config,
        work,
        manifest,
        failures,
        started_s,
        num_reused=num_reused,
        budget_passed=num_failed > config.max_failure_fraction * len(work.sources),
    )


def _process(config: IngestConfig, work: Work, staging: Staging, progress: Progress) -> tuple[list[ShardCommit], int]:
    planned = staging.read_plan()
    shards = _shards(planned, config, work) if planned is not None else ()
    if planned is None or staging.committed_shards() != {shard.name for shard in shards}:
        progress.note("starting Ray" if config.ray_address is None else f"connecting to Ray at {config.ray_address}")
        with ray_session(config.ray_address, config.num_cpus):
            if planned is None:
                planned = _probe(config, work.sources, progress)
                shards = _shards(planned, config, work)
                staging.write_plan(planned, shards)
            num_reused = _decode(config, planned, shards, staging, progress)
    else:
        num_reused = sum(shard.num_segments for shard in shards)
    commits = [staging.read_commit(shard.name) for shard in shards]
    failures = tuple(item for item in planned if isinstance(item, Failure))
    return [*commits, ShardCommit(shard=None, samples=(), failures=failures)], num_reused


def _shards(planned: Sequence[PlannedVideo | Failure], config: IngestConfig, work: Work) -> tuple[ShardPlan, ...]:
    """The shards of the planned videos, numbered behind those of the version that is extended."""
    videos = [item for item in planned if isinstance(item, PlannedVideo)]
    used = [shard_number(shard.name) for shard in work.base.shards] if work.base else []
    first = max(used, default=-1) + 1
    shards = plan_shards(videos, config.target_shard_bytes)
    return tuple(replace(shard, name=shard_name(first + shard_number(shard.name))) for shard in shards)


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
        sequential_s = {
            segment.name: cost_s
            for video in shard.videos
            for segment, cost_s in zip(video.segments, sequential_costs_s(video), strict=True)
        }
        for video, segment in todo:
            common = {"codec": video.codec, "stream_index": video.stream_index, "source_uri": video.source.uri}
            common |= {
                "media": video.source.media,
                "is_damaged": "partial" in video.probe,
                "is_counted": video.is_counted,
                **asdict(video.source.location),
            }
            size = {"width": video.width, "height": video.height, "orientation": video.orientation}
            common["sequential_cost_s"] = sequential_s[segment.name]
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


def _finished_before(config: IngestConfig, work: Work, progress: Progress, started_s: float) -> IngestSummary:
    assert work.base is not None
    for note in work.notes:
        progress.note(note)
    progress.note(f"{config.out} is already finished with these settings and inputs; nothing to do")
    failures = read_failures(config.out)
    budget_passed = len(failures) > config.max_failure_fraction * len(work.inputs)
    return _summarise(
        config, work, work.base, failures, started_s, num_reused=0, budget_passed=budget_passed, was_complete=True
    )


def _clean_up(config: IngestConfig, sources: SourceList, request: Request) -> None:
    """Removes what an ingest left that was killed after it had published.

    An unfinished extension may have its area there, too: it is kept for the command that continues it.
    """
    first = Staging(config.out, Work(base=None, sources=sources.videos, inputs=()).key(config))
    if request.append or request.retry_failures or first.is_only_area():
        first.remove_all()


def _summarise(
    config: IngestConfig,
    work: Work,
    manifest: Manifest,
    failures: Sequence[Failure],
    started_s: float,
    *,
    num_reused: int,
    budget_passed: bool,
    was_complete: bool = False,
) -> IngestSummary:
    return IngestSummary(
        out=open_storage(config.out).uri,
        manifest_digest=manifest.digest,
        version=manifest.version,
        num_sources=len(work.inputs),
        num_videos=len(manifest.samples),
        num_frames=sum(row.num_frames for row in manifest.samples),
        num_shards=len(manifest.shards),
        size_bytes=sum(shard.size_bytes for shard in manifest.shards),
        media_s=sum(row.duration_ns for row in manifest.samples) / 1e9,
        failures=dict(sorted(Counter(failure.error_class for failure in failures).items())),
        seconds=time.monotonic() - started_s,
        was_complete=was_complete,
        num_segments_reused=num_reused,
        budget_passed=budget_passed,
    )


def _tell_about_sources(sources: SourceList, progress: Progress) -> None:
    if sources.num_ignored_files:
        progress.note(f"ignored {sources.num_ignored_files} files in the folders that are not named like videos")
    if sources.unmatched:
        progress.note(
            f"the conversations name {len(sources.unmatched)} videos that are not among the sources, "
            f"the first is {sources.unmatched[0]}"
        )
