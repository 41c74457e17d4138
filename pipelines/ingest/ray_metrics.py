"""An ingest's progress as Prometheus metrics, through Ray: what is done, what failed, how near the failure budget is.

`METRICS` is the list of all there are. The label is the destination, without a password. An ingest that continues
counts what earlier runs of it have done.
"""

from __future__ import annotations

import time

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.progress import IngestStatus, Progress
from pipelines.ray_gauges import Gauges, GaugeSpec
from pipelines.redaction import redacted

METRICS: tuple[GaugeSpec, ...] = (
    GaugeSpec(name="vamba_ingest_videos_planned", unit="videos", description="Videos and images to ingest."),
    GaugeSpec(name="vamba_ingest_videos_done", unit="videos", description="Of them done in the stage, failed or not."),
    GaugeSpec(name="vamba_ingest_videos_failed", unit="videos", description="Of them set aside as failures so far."),
    GaugeSpec(name="vamba_ingest_failure_budget_ratio", unit="1", description="Share that may fail (exit code 3)."),
    GaugeSpec(name="vamba_ingest_media_seconds", unit="s", description="Media that this run has done in the stage."),
    GaugeSpec(name="vamba_ingest_media_seconds_per_second", unit="1", description="The same over the stage's time."),
    GaugeSpec(name="vamba_ingest_decoding", unit="0/1", description="0 while videos are probed, 1 while decoded."),
    GaugeSpec(name="vamba_ingest_last_progress_timestamp_seconds", unit="s", description="When that last grew (Unix)."),
)


class RayProgress:
    """Tells another progress all it hears, and Ray the numbers."""

    def __init__(self, inner: Progress, config: IngestConfig) -> None:
        self._inner = inner
        self._budget = config.max_failure_fraction
        self._dataset = redacted(config.out)
        self._gauges = Gauges(METRICS, label="dataset")
        self._seen: tuple[str, int, float] | None = None
        self._grew_at = time.time()

    def note(self, text: str) -> None:
        """A sentence about something that happened once."""
        self._inner.note(text)

    def update(self, status: IngestStatus) -> None:
        """Where the job is."""
        self._inner.update(status)
        self._gauges.set(self.values(status, time.time()), self._dataset)

    def values(self, status: IngestStatus, now: float) -> dict[str, float]:
        """Values by name of `METRICS`; what is not known yet is left out. now: seconds since 1970."""
        seen = (status.stage, status.videos_done, status.media_s)
        if seen != self._seen:
            self._seen, self._grew_at = seen, now
        known = {
            "videos_planned": status.num_videos,
            "videos_done": status.videos_done,
            "videos_failed": status.num_failed,
            "failure_budget_ratio": self._budget,
            "media_seconds": status.media_s,
            "media_seconds_per_second": status.media_s / status.elapsed_s if status.elapsed_s > 0 else None,
            "decoding": status.stage == "decode",
            "last_progress_timestamp_seconds": self._grew_at,
        }
        return {f"vamba_ingest_{name}": float(value) for name, value in known.items() if value is not None}
