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
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict

from pipelines.capacity import ingest_needs, require_room_here
from pipelines.ingest.batches import Position, next_position, shards_of_batch, take_batch
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.extension import Request, Work, find_work, is_current, work_key
from pipelines.ingest.listing_progress import listing_progress, tell_about_sources
from pipelines.ingest.lock import LOCK_NAME, check_free, destination_lock
from pipelines.ingest.progress import Progress, TextProgress
from pipelines.ingest.publish import current, publish
from pipelines.ingest.rows import probed_from_table
from pipelines.ingest.sources import FoundSources, find_sources
from pipelines.ingest.stages import bind, decode_task, probe_task, run_stage
from pipelines.ingest.staging import WORK_PREFIX, BatchPlan, FinishedBatch, Staging
from pipelines.ingest.store import StoredSource
from pipelines.ingest.summary import IngestSummary, Made, summarise
from pipelines.ingest.tasks import decode_tasks, probe_tasks
from pipelines.ingest.tracking import Tracker
from pipelines.ingest.types import PlannedVideo, ShardPlan, shard_number
from pipelines.ray_session import num_cores, ray_session
from pipelines.storage import Storage, open_storage
from vamba.data.manifest import Failure


def run_ingest(config: IngestConfig, progress: Progress | None = None, request: Request | None = None) -> IngestSummary:
    """Ingests `config.sources` into `config.out`, or continues doing so; extends a finished dataset if requested.

    Raises:
        ValueError: a source or listing is wrong, another ingest is writing there (`DestinationBusy`), or the
            destination holds a finished dataset of other settings or inputs, which the request does not allow for.
        RuntimeError: Ray lost tasks; the same command continues.
    """
    started_s = time.monotonic()
    progress, request = progress or TextProgress(), request or Request()
    with find_sources(config.sources, config.conversations, listing_progress(progress)) as sources:
        tell_about_sources(sources, progress)
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
        made = Made(published=published, num_reused=num_reused, budget_passed=budget_passed)
        return summarise(config, made, num_inputs=work.num_inputs, found=sources.counts, started_s=started_s)


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
        if address is not None:
            require_room_here(ingest_needs(), self._progress.note)
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
    tasks = probe_tasks(sources, num_cores()) if sources else []
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
    with tracker.stage("decode"):
        tracker.begin_decoding([video for shard in shards for video in shard.videos], done, num_probe_failures)
        if done:
            tracker.note(f"continuing: {len(done)} of {len(segments)} segments were decoded by an earlier run")
        tracker.tell_decoding()
        if names - committed:
            ray.start()
            tasks = decode_tasks(shards, committed, done, config.segment_cost_s, num_cores())
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


def _finished_before(
    config: IngestConfig, sources: FoundSources, work: Work, progress: Progress, started_s: float
) -> IngestSummary:
    assert work.base is not None
    for note in work.notes:
        progress.note(note)
    progress.note(f"{config.out} is already finished with these settings and inputs; nothing to do")
    published = current(work.base)
    budget_passed = published.failures.num_rows > config.max_failure_fraction * work.num_inputs
    made = Made(published=published, num_reused=0, budget_passed=budget_passed, was_complete=True)
    return summarise(config, made, num_inputs=work.num_inputs, found=sources.counts, started_s=started_s)


def _has_leftovers(storage: Storage) -> bool:
    return storage.exists(LOCK_NAME) or next(storage.walk(WORK_PREFIX), None) is not None


def _clean_up(config: IngestConfig, sources: FoundSources, request: Request) -> None:
    """Removes what an ingest left that was killed after it had published.

    An unfinished extension may have its area there, too: it is kept for the command that continues it.
    """
    first = Staging(config.out, work_key(config, sources.store.identities(), None))
    if request.append or request.retry_failures or first.is_only_area():
        first.remove_all()
