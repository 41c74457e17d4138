"""The ingest job: sources → probe → plan → decode → pack → publish.

`run_ingest` is the driver. It lists the sources into a store on disk, then takes them in batches: it has Ray Data probe
and plan a batch, compares the plan with what earlier runs left done, and has Ray Data decode and pack the rest. In the
end it publishes: failures first, the manifest last. Killed at any moment, the same command continues and ends with the
same bytes. A finished dataset is left alone, unless the request is to append to it or to retry its failures: then the
same stages run on the sources in question, their shards are numbered behind those that are there, and a further version
is published.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass

import pyarrow as pa

from pipelines.ingest.batches import Position, next_position, shards_of_batch, take_batch
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request, Work, find_work, is_current, work_key
from pipelines.ingest.limits import sequential_costs_s
from pipelines.ingest.lock import LOCK_NAME, check_free, destination_lock
from pipelines.ingest.plan import group_by_cost
from pipelines.ingest.progress import IngestStatus, Progress, TextProgress
from pipelines.ingest.publish import Published, current, publish
from pipelines.ingest.rows import SOURCE_SCHEMA, TASK_SCHEMA, probed_from_table, source_row
from pipelines.ingest.sources import FoundSources, SourceCounts, find_sources
from pipelines.ingest.stages import bind, decode_task, probe_task, run_stage
from pipelines.ingest.staging import WORK_PREFIX, BatchPlan, FinishedBatch, Staging
from pipelines.ingest.store import StoredSource
from pipelines.ingest.tracking import Tracker
from pipelines.ingest.types import PlannedVideo, ShardPlan, shard_number
from pipelines.ray_session import ray_session
from pipelines.storage import Storage, open_storage
from vamba.data.manifest import Failure

_PROBE_BYTES_PER_S = 400e6  # hashing and demuxing, for grouping only
_PROBE_FILE_S = 0.03
_PROBE_TASK_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestSummary:
    """What an ingest made."""

    out: str
    manifest_digest: str  # "sha256:…"
    version: int  # of the dataset
    num_sources: int  # videos and images that this version was asked to hold
    found: SourceCounts  # what the sources of this run were
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
    with find_sources(config.sources, config.conversations, _listing_progress(progress)) as sources:
        _tell_about_sources(sources, progress)
        storage = open_storage(config.out)
        check_free(storage)
        work = find_work(config, sources.store, request)
        if work.is_done and not _has_leftovers(storage):
            return _finished_before(config, sources, work, progress, started_s)
        with destination_lock(storage) as lease:
            if not is_current(work, config.out):  # another ingest has published until now
                work = find_work(config, sources.store, request)
            if work.is_done:
                _clean_up(config, sources, request)
                return _finished_before(config, sources, work, progress, started_s)
            for note in work.notes:
                progress.note(note)
            staging = Staging(config.out, work.key(config), lease.holder)
            staging.remove_others()
            num_batches, num_reused = _process(config, work, staging, progress)
            published = publish(config, work, staging, num_batches, lease)
        budget_passed = published.num_failed > config.max_failure_fraction * work.num_sources
        return _summarise(
            config, sources, work, published, started_s, num_reused=num_reused, budget_passed=budget_passed
        )


def _process(config: IngestConfig, work: Work, staging: Staging, progress: Progress) -> tuple[int, int]:
    """Runs all batches; returns their number, and how many segments earlier runs had decoded."""
    used = [shard_number(shard.name) for shard in work.base.header.shards] if work.base else []
    position = next_position(staging, max(used, default=-1) + 1)
    tracker = Tracker(progress, work.num_sources)
    num_reused = 0
    for batch in range(position.batch):
        record = staging.read_batch(batch)
        num_reused += record.num_segments
        tracker.skip(record.num_sources, len(record.failures))
    with ExitStack() as session:
        ray = _Ray(config, session, progress)
        while work.comparison.goes_on(position.after_id):
            num_reused += _run_batch(config, work, staging, position, tracker, ray)
            position = next_position(staging, position.first_shard)
    return position.batch, num_reused


class _Ray:
    """Starts Ray when it is needed first: an ingest that only has to publish does without."""

    def __init__(self, config: IngestConfig, session: ExitStack, progress: Progress) -> None:
        self._config, self._session, self._progress = config, session, progress
        self._is_started = False

    def start(self) -> None:
        if self._is_started:
            return
        address = self._config.ray_address
        self._progress.note("starting Ray" if address is None else f"connecting to Ray at {address}")
        self._session.enter_context(ray_session(address, self._config.num_cpus))
        self._is_started = True


def _run_batch(
    config: IngestConfig, work: Work, staging: Staging, position: Position, tracker: Tracker, ray: _Ray
) -> int:
    """Probes, decodes and packs one batch; returns how many of its segments were done before."""
    plan = staging.read_plan(position.batch)
    if plan is not None:
        with tracker.stage("probe"):
            tracker.probed(plan.results)
        shards, carried = _shards(config, work, position, plan)
    else:
        ray.start()
        taken = take_batch(work.comparison.todo(position.after_id), config.batch_videos, config.batch_bytes)
        results = _probe(config, taken, tracker)
        plan = BatchPlan(last_id=taken[-1].source.id, results=tuple(results))
        shards, carried = _shards(config, work, position, plan)
        staging.write_plan(position.batch, plan, shards)
    failures = [item for item in plan.results if isinstance(item, Failure)]
    num_reused = _decode(config, shards, staging, tracker, ray, num_probe_failures=len(failures))
    commits = [staging.read_commit(shard.name) for shard in shards]
    record = FinishedBatch(
        last_id=plan.last_id,
        next_shard=position.first_shard + len(shards),
        num_sources=len(plan.results),
        num_segments=sum(shard.num_segments for shard in shards),
        shards=[asdict(commit.shard) for commit in commits if commit.shard is not None],
        samples=[asdict(row) for commit in commits for row in commit.samples],
        failures=[asdict(row) for row in (*failures, *(row for commit in commits for row in commit.failures))],
    )
    staging.finish_batch(position.batch, record, carried)
    return num_reused


def _shards(
    config: IngestConfig, work: Work, position: Position, plan: BatchPlan
) -> tuple[tuple[ShardPlan, ...], tuple[PlannedVideo, ...]]:
    planned = [item for item in plan.results if isinstance(item, PlannedVideo)]
    return shards_of_batch(
        [*position.carried, *planned],
        position.first_shard,
        config.target_shard_bytes,
        is_last=not work.comparison.goes_on(plan.last_id),
    )


def _probe(config: IngestConfig, taken: Sequence[StoredSource], tracker: Tracker) -> list[PlannedVideo | Failure]:
    results: list[PlannedVideo | Failure] = [
        Failure(
            stage="sources",
            id=item.source.id,
            source_uri=item.source.uri,
            error_class=item.problem.error_class,
            message=item.problem.message,
        )
        for item in taken
        if item.problem is not None
    ]
    sources = [item.source for item in taken if item.problem is None]
    costs = [_PROBE_FILE_S + max(source.size_bytes, 0) / _PROBE_BYTES_PER_S for source in sources]
    rows = [{"source": source_row(source)} for source in sources]
    tasks = [
        pa.Table.from_pylist([rows[index] for index in group], schema=SOURCE_SCHEMA)
        for group in group_by_cost(costs, _PROBE_TASK_S)
    ]
    with tracker.stage("probe"):
        tracker.probed(results)
        if tasks:
            for table in run_stage(tasks, bind(probe_task, config=config)):
                probed = probed_from_table(table)
                results += probed
                tracker.probed(probed)
    return sorted(results, key=lambda item: item.id if isinstance(item, Failure) else item.source.id)


def _decode(
    config: IngestConfig,
    shards: Sequence[ShardPlan],
    staging: Staging,
    tracker: Tracker,
    ray: _Ray,
    *,
    num_probe_failures: int,
) -> int:
    """Decodes and packs what is not done of a batch's shards; returns how many segments were done before."""
    names = {shard.name for shard in shards}
    committed, done = staging.committed_shards() & names, staging.done_segments()
    segments = {segment.name for shard in shards for video in shard.videos for segment in video.segments}
    done |= {s.name for shard in shards if shard.name in committed for video in shard.videos for s in video.segments}
    done &= segments
    tasks = _decode_tasks(config, shards, committed, done)
    with tracker.stage("decode"):
        tracker.begin_decoding([video for shard in shards for video in shard.videos], done, num_probe_failures)
        if done:
            tracker.note(f"continuing: {len(done)} of {len(segments)} segments were decoded by an earlier run")
        tracker.tell_decoding()
        if tasks:
            ray.start()
            task = bind(decode_task, config=config, staging_key=staging.key, holder=staging.holder)
            for table in run_stage(tasks, task):
                for row in table.to_pylist():
                    if row["segment"] is not None:
                        tracker.finish(row["segment"], failed=row["error_class"] is not None)
                tracker.tell_decoding()
    staging.check_holder()  # whoever took the destination over has removed what we staged
    missing = names - staging.committed_shards()
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
            size = {
                "width": video.width,
                "height": video.height,
                "orientation": video.orientation,
                "store": video.store,
            }
            common = {"codec": video.codec, "stream_index": video.stream_index, "source_uri": video.source.uri}
            common |= {"media": video.source.media, "is_damaged": "partial" in video.probe}
            common["is_counted"] = video.is_counted
            common |= asdict(video.source.location)
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


def _finished_before(
    config: IngestConfig, sources: FoundSources, work: Work, progress: Progress, started_s: float
) -> IngestSummary:
    assert work.base is not None
    for note in work.notes:
        progress.note(note)
    progress.note(f"{config.out} is already finished with these settings and inputs; nothing to do")
    published = current(work.base)
    budget_passed = published.failures.num_rows > config.max_failure_fraction * work.num_inputs
    return _summarise(
        config, sources, work, published, started_s, num_reused=0, budget_passed=budget_passed, was_complete=True
    )


def _has_leftovers(storage: Storage) -> bool:
    return storage.exists(LOCK_NAME) or next(storage.walk(WORK_PREFIX), None) is not None


def _clean_up(config: IngestConfig, sources: FoundSources, request: Request) -> None:
    """Removes what an ingest left that was killed after it had published.

    An unfinished extension may have its area there, too: it is kept for the command that continues it.
    """
    first = Staging(config.out, work_key(config, sources.store.identities(), None))
    if request.append or request.retry_failures or first.is_only_area():
        first.remove_all()


def _summarise(
    config: IngestConfig,
    sources: FoundSources,
    work: Work,
    published: Published,
    started_s: float,
    *,
    num_reused: int,
    budget_passed: bool,
    was_complete: bool = False,
) -> IngestSummary:
    shards = published.header.shards
    return IngestSummary(
        out=open_storage(config.out).uri,
        manifest_digest=published.digest,
        version=published.header.version,
        num_sources=work.num_inputs,
        found=sources.counts,
        num_videos=published.num_samples,
        num_frames=published.num_frames,
        num_shards=len(shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
        media_s=published.duration_ns / 1e9,
        failures=published.failure_classes(),
        seconds=time.monotonic() - started_s,
        was_complete=was_complete,
        num_segments_reused=num_reused,
        budget_passed=budget_passed,
    )


def _listing_progress(progress: Progress) -> Callable[[int], None]:
    started_s = time.monotonic()

    def told(num_sources: int) -> None:
        progress.update(
            IngestStatus(
                stage="list",
                videos_done=num_sources,
                num_videos=None,
                media_s=0.0,
                num_failed=0,
                elapsed_s=time.monotonic() - started_s,
            )
        )

    return told


def _tell_about_sources(sources: FoundSources, progress: Progress) -> None:
    counts = sources.counts
    kinds = ((counts.num_videos, "videos"), (counts.num_images, "images"))
    progress.note("found " + (" and ".join(f"{count:,} {kind}" for count, kind in kinds if count) or "nothing usable"))
    if counts.num_unusable:
        progress.note(f"{counts.num_unusable:,} sources cannot be used; failures.parquet will say why of each")
    if counts.num_ignored_files:
        progress.note(
            f"ignored {counts.num_ignored_files:,} files in the folders that are not named like videos or images"
        )
    if counts.num_ignored_samples:
        progress.note(f"ignored {counts.num_ignored_samples:,} samples of the tars that have no video and no image")
    if counts.num_text_only_rows:
        progress.note(f"passed over {counts.num_text_only_rows:,} rows of text only, about no video or image")
    if counts.num_unmatched:
        progress.note(
            f"the conversations name {counts.num_unmatched:,} videos or images that are not among the sources, "
            f"the first is {sources.first_unmatched}"
        )
