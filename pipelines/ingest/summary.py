"""What an ingest made, for the command and its callers."""

from __future__ import annotations

import time
from dataclasses import dataclass

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.publish import Published
from pipelines.ingest.sources import SourceCounts
from pipelines.storage import open_storage


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """What there is in the end, and what this run had to do with it. num_reused: segments of earlier runs."""

    published: Published
    num_reused: int
    budget_passed: bool
    was_complete: bool = False


def summarise(
    config: IngestConfig, made: Made, *, num_inputs: int, found: SourceCounts, started_s: float
) -> IngestSummary:
    """The summary of a run. started_s: of this run, on the monotonic clock."""
    published, shards = made.published, made.published.header.shards
    return IngestSummary(
        out=open_storage(config.out).uri,
        manifest_digest=published.digest,
        version=published.header.version,
        num_sources=num_inputs,
        found=found,
        num_videos=published.num_samples,
        num_frames=published.num_frames,
        num_shards=len(shards),
        size_bytes=sum(shard.size_bytes for shard in shards),
        media_s=published.duration_ns / 1e9,
        failures=published.failure_classes(),
        seconds=time.monotonic() - started_s,
        was_complete=made.was_complete,
        num_segments_reused=made.num_reused,
        budget_passed=made.budget_passed,
    )
