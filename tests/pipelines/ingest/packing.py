"""Makes datasets by the functions of an ingest in this process: no Ray, any cut into segments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment
from pipelines.ingest.lock import destination_lock
from pipelines.ingest.pack import pack_shard
from pipelines.ingest.plan import plan_shards, plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.requests import requests_of
from pipelines.ingest.staging import Staging
from pipelines.ingest.types import PlannedVideo, ShardCommit, VideoSource
from pipelines.manifest_io import build_manifest, write_failures, write_manifest
from pipelines.storage import open_storage
from vamba.data.manifest import Manifest
from vamba.data.sample import Conversation, Turn

TALK = Conversation(
    id="q0", category="shape", turns=(Turn(speaker="human", value="<video>\nWhat?"), Turn(speaker="gpt", value="Ä!"))
)


def ingest_here(videos: Sequence[Path], config: IngestConfig) -> Manifest:
    """Ingests these files into `config.out`, each with one conversation."""
    planned = [plan_here(path, config) for path in videos]
    commits = []
    with destination_lock(open_storage(config.out)) as lease:
        staging = Staging(config.out, "sha256:" + "0" * 64, lease.holder)
        for shard in plan_shards(planned, config.target_shard_bytes):
            for video in shard.videos:
                requests = requests_of(video, config.frames.jpeg_quality)
                for segment, request in zip(video.segments, requests, strict=True):
                    request = replace(request, h264=config.frames.h264_of(video.store))
                    staging.write_segment(shard.name, segment.name, decode_segment(request))
            commits.append(pack_shard(staging, shard))
        staging.remove_all()
    return write_dataset_of(commits, config)


def plan_here(path: Path, config: IngestConfig) -> PlannedVideo:
    source = VideoSource(
        id=path.stem, uri=str(path), size_bytes=path.stat().st_size, mtime_ns=0, split=None, conversations=(TALK,)
    )
    return plan_video(source, probe_video(str(path)), config)


def write_dataset_of(commits: Sequence[ShardCommit], config: IngestConfig) -> Manifest:
    manifest = build_manifest(
        [commit.shard for commit in commits if commit.shard is not None],
        [row for commit in commits for row in commit.samples],
        config_digest=config.digest,
        inputs_digest="sha256:" + "1" * 64,
    )
    write_failures(config.out, [failure for commit in commits for failure in commit.failures])
    write_manifest(config.out, manifest)
    return manifest


def without_indexes(root: Path) -> Manifest:
    """Turns a dataset into one from before there were indexes and token counts."""
    from pipelines.manifest_io import read_manifest

    manifest = read_manifest(root)
    for path in (root / "shards").glob("*.idx"):
        path.unlink()
    old = replace(
        manifest,
        shards=tuple(replace(shard, index_sha256=None) for shard in manifest.shards),
        samples=tuple(replace(row, num_tokens=None) for row in manifest.samples),
    )
    write_manifest(root, old)
    return old
