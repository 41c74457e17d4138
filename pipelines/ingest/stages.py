"""The two Ray Data stages of an ingest, probe and decode, and the work that one task of each does in its worker.

Each task gets one row of work (files to probe, or segments to decode: see tasks.py) and yields one small table under
a declared schema. A worker keeps one decoder process (sandbox.py) for all its tasks. Frames go from the worker to
the staging area; only counts come back to the driver.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pyarrow as pa

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.limits import time_limit_s
from pipelines.ingest.pack import pack_if_complete
from pipelines.ingest.partial import with_damage
from pipelines.ingest.plan import plan_video
from pipelines.ingest.plan_image import plan_image
from pipelines.ingest.reproduce import FIRST_VIDEO_STREAM, ffmpeg_command
from pipelines.ingest.rows import DECODED_SCHEMA, probed_table, segment_from_row, source_from_row
from pipelines.ingest.sandbox import DecoderProcess
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import DecodeRequest, IngestError, PlannedVideo, ProbedImage, ProbedVideo, VideoSource
from vamba.data.manifest import Failure

_PROBE_BYTES_PER_S = 5e6  # slowest storage that a probe waits for
_LIMITS_INTERVAL_S = 0.1

_UNREADABLE = {"not_found", "permission_denied", "unreachable"}  # reading again another way cannot help

_decoder: DecoderProcess | None = None
_Probed = TypeVar("_Probed", ProbedVideo, ProbedImage)


def run_stage(tasks: Sequence[pa.Table], work: Callable[[pa.Table], pa.Table]) -> Iterator[pa.Table]:
    """Runs `work` on each table as one Ray Data task; yields the results as they come, in any order.

    Raises:
        RuntimeError: a task failed for good (an error in it, or its worker was lost again and again).
    """
    import ray.data
    import ray.exceptions
    from ray.data._internal.execution.resource_manager import ResourceManager

    # Until Ray Data has asked twice what the cluster has, it runs one task at a time: by default for a second.
    ResourceManager.GLOBAL_LIMITS_UPDATE_INTERVAL_S = _LIMITS_INTERVAL_S  # type: ignore[assignment]
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # a failed stage is raised here, once
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # from_arrow would start workers for nothing but to look at the tables, and wait for all of them.
    dataset = ray.data.from_blocks(list(tasks)).map_batches(
        work, batch_size=None, batch_format="pyarrow", zero_copy_batch=True, num_cpus=1
    )
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        raise RuntimeError(f"a task of the ingest failed on Ray, what is done is kept: {error}") from error


def probe_task(table: pa.Table, *, config: IngestConfig) -> pa.Table:
    """SOURCE_SCHEMA → PROBED_SCHEMA: probes and plans each video."""
    sources = [source_from_row(row["source"]) for row in table.to_pylist()]
    return probed_table(_probe(source, config) for source in sources)


def _probe(source: VideoSource, config: IngestConfig) -> PlannedVideo | Failure:
    limit_s = config.watchdog.base_s + max(source.size_bytes, 0) / _PROBE_BYTES_PER_S
    try:
        decoder = _worker_decoder(config)
        if source.media == "image":
            picture = _twice_if_it_crashes(
                lambda: decoder.probe_image(source.location, config.limits.max_pixels, limit_s=limit_s)
            )
            return plan_image(source, picture, config)
        probe = _twice_if_it_crashes(
            lambda: decoder.probe(source.location, config.limits, limit_s=limit_s, keep_damaged=config.partial)
        )
        if probe.is_counted and (probe.damage or config.sampling.policy == "keyframes"):
            raise probe.damage or IngestError("no_timestamps", "its keyframes have no times; choose another policy")
        video = plan_video(source, probe, config)
        return video if probe.damage is None else with_damage(video, probe.damage)
    except IngestError as error:
        failure = _failure("probe", source.id, source.uri, error)
        return replace(failure, command=ffmpeg_command(source.location, FIRST_VIDEO_STREAM))


def _twice_if_it_crashes(probe: Callable[[], _Probed]) -> _Probed:
    try:
        return probe()
    except IngestError as error:
        if error.error_class != "decoder_crash":
            raise
        return probe()  # the decoder may have been killed; a file that crashes it does so again


def decode_task(table: pa.Table, *, config: IngestConfig, staging_key: str, holder: str) -> pa.Table:
    """TASK_SCHEMA → DECODED_SCHEMA: decodes segments, stages their frames, packs the shards that this completes."""
    staging = Staging(config.out, staging_key, holder)
    rows: list[dict[str, Any]] = []
    for task in table.to_pylist():
        done = _done_before(task, staging)
        rows += [_decode(item, config, staging, is_done=_name(item) in done) for item in task["segments"]]
        for shard in task["shards"]:
            if pack_if_complete(staging, shard["name"], shard["num_segments"]):
                rows.append({"packed_shard": shard["name"]})
    return pa.Table.from_pylist(rows, schema=DECODED_SCHEMA)


def _done_before(task: dict[str, Any], staging: Staging) -> set[str]:
    """Segments of a task that ran before, and whose worker was lost."""
    done: set[str] = set()
    for shard in task["shards"]:
        own = {_name(item) for item in task["segments"] if item["shard"] == shard["name"]}
        if own:
            done |= own if staging.is_committed(shard["name"]) else staging.done_segments(shard["name"]) & own
    return done


def _name(item: dict[str, Any]) -> str:
    return str(item["segment"]["name"])


def _decode(item: dict[str, Any], config: IngestConfig, staging: Staging, *, is_done: bool) -> dict[str, Any]:
    segment = segment_from_row(item["segment"])
    row = {"segment": segment.name, "num_frames": len(segment.target_pts)}
    if is_done:
        return row
    request = DecodeRequest(
        uri=item["uri"],
        offset_bytes=item["offset_bytes"],
        length_bytes=item["length_bytes"],
        codec=item["codec"],
        stream_index=item["stream_index"],
        key_pts=segment.key_pts,
        key_dts=segment.key_dts,
        target_pts=segment.target_pts,
        seeks=segment.seeks,
        width=item["width"],
        height=item["height"],
        orientation=item["orientation"],
        jpeg_quality=config.frames.jpeg_quality,
        h264=config.frames.h264_of(item["store"]),
        max_pixels=config.limits.max_pixels,
    )
    limit_s = time_limit_s(config.watchdog, segment.cost_s)
    sequential_limit_s = time_limit_s(config.watchdog, item["sequential_cost_s"])
    decoder = _worker_decoder(config)
    video_id = segment.name.rpartition(".")[0]
    try:
        if item["is_damaged"]:
            raise IngestError("corrupt", "the file is damaged")  # so nothing of it is taken unchecked
        if item["media"] == "image":
            frames = decoder.decode_image(request, limit_s=limit_s)
        elif item["is_counted"]:
            frames = decoder.decode_counted(request, limit_s=sequential_limit_s)
        else:
            frames = _decode_with_retry(decoder, request, limit_s, sequential_limit_s)
    except IngestError as error:
        failure = _failure("decode", video_id, item["source_uri"], error)
        if not config.partial or item["media"] == "image" or item["is_counted"] or error.error_class in _UNREADABLE:
            staging.write_segment_failure(item["shard"], segment.name, failure)
            return {**row, "num_frames": 0, "error_class": error.error_class}
        kept = _salvaged(decoder, request, sequential_limit_s)
        staging.write_partial_segment(item["shard"], segment.name, kept, failure)
        return {**row, "num_frames": sum(frame is not None for frame in kept)}
    staging.write_segment(item["shard"], segment.name, frames)
    return row


def _decode_with_retry(
    decoder: DecoderProcess, request: DecodeRequest, limit_s: float, sequential_limit_s: float
) -> list[bytes]:
    try:
        return decoder.decode(request, limit_s=limit_s)
    except IngestError as first:
        if first.error_class in _UNREADABLE:
            raise
        try:
            return decoder.decode(request, limit_s=sequential_limit_s, sequentially=True)
        except IngestError as second:
            raise (first if second.error_class == "decoder_timeout" else second) from None


def _salvaged(decoder: DecoderProcess, request: DecodeRequest, limit_s: float) -> list[bytes | None]:
    try:
        return decoder.salvage(request, limit_s=limit_s)
    except IngestError:  # it takes the decoder down: nothing of this segment is to be had
        return [None] * len(request.target_pts)


def _failure(stage: str, video_id: str, uri: str, error: IngestError) -> Failure:
    return Failure(stage=stage, id=video_id, source_uri=uri, error_class=error.error_class, message=error.message)


def _worker_decoder(config: IngestConfig) -> DecoderProcess:
    """The decoder process of this Ray worker, started at its first use."""
    global _decoder
    if _decoder is None:
        os.environ["OMP_NUM_THREADS"] = "1"
        _decoder = DecoderProcess(max_rss_bytes=config.watchdog.max_rss_bytes)
    return _decoder


def bind(task: Callable[..., pa.Table], **arguments: Any) -> Callable[[pa.Table], pa.Table]:
    """A task with its settings fixed, under the task's name (which Ray shows)."""
    bound = functools.partial(task, **arguments)
    functools.update_wrapper(bound, task)
    return bound
