"""Settings of an ingest, each beside its unit and checked when built.

`shaping` are the settings that decide what bytes the dataset has: their digest names the dataset, and continuing with
others is refused. The rest (workers, addresses, time limits) may change between two runs of one ingest.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, get_args

from pipelines.ingest.types import H264, MAX_PIXELS
from vamba.data.manifest import FORMAT_VERSION, digest_of
from vamba.data.sample import Store
from vamba.data.sampling import FrameSampling

# Raised whenever the same settings would give other bytes: decoding, scaling, encoding, packing order.
RECIPE_VERSION = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameStorage:
    """How a chosen frame is stored."""

    long_edge: int = 640  # pixels; a frame with a longer side is scaled down, keeping its shape
    short_edge: int = 360  # pixels; the same for the shorter side. A frame is never scaled up
    store: Store = "jpeg"  # jpeg: a file each; h264: one stream of short groups per video. Images are always JPEG
    jpeg_quality: int = 85  # 1 to 100
    gop_frames: int = 8  # for h264: frames in a group, of which the first is a keyframe; 1 to 64
    crf: int = 23  # for h264: x264's constant rate factor, 0 (best) to 51

    def __post_init__(self) -> None:
        if self.store not in get_args(Store):
            raise ValueError(f"frames.store is {self.store!r}; it must be one of {', '.join(get_args(Store))}")
        for name, least, most, default in (("gop_frames", 1, 64, 8), ("crf", 0, 51, 23)):
            value = getattr(self, name)
            if not least <= value <= most:
                raise ValueError(f"frames.{name} is {value}; it must be from {least} to {most}")
            if self.store != "h264" and value != default:
                raise ValueError(
                    f"frames.{name} is {value}, but frames.store {self.store!r} does not read it; leave it out, or set "
                    "frames.store to h264"
                )
        if not 1 <= self.short_edge <= self.long_edge <= 16384:
            raise ValueError(
                f"frames.short_edge is {self.short_edge} and frames.long_edge is {self.long_edge}; "
                "they must satisfy 1 <= short_edge <= long_edge <= 16384 pixels"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"frames.jpeg_quality is {self.jpeg_quality}; it must be from 1 to 100")

    def h264_of(self, store: Store) -> H264 | None:
        """The encoder's settings for a video stored that way."""
        return H264(gop_frames=self.gop_frames, crf=self.crf) if store == "h264" else None


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitRule:
    """Where a video goes whose listing names no split: by the digest of its bytes, so always the same way."""

    validation_fraction: float = 0.05  # share of the videos
    test_fraction: float = 0.0  # share of the videos

    def __post_init__(self) -> None:
        for name, value in (("validation_fraction", self.validation_fraction), ("test_fraction", self.test_fraction)):
            if not 0 <= value <= 1:
                raise ValueError(f"split.{name} is {value}; it must be from 0 to 1")
        if self.validation_fraction + self.test_fraction > 1:
            raise ValueError("split.validation_fraction + split.test_fraction is above 1; lower one of them")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog:
    """When a decoder process is ended: its segment is tried once more in the plain way, then its video has failed."""

    base_s: float = 60.0  # allowed for any segment or probe, on top
    per_cost: float = 30.0  # seconds allowed for each second of CPU time that the plan estimates
    max_rss_bytes: int = 3 * 1024**3  # resident memory of one decoder process

    def __post_init__(self) -> None:
        if self.base_s <= 0 or self.per_cost < 0 or self.max_rss_bytes < 256 * 1024**2:
            raise ValueError(
                "watchdog needs base_s > 0, per_cost >= 0 and max_rss_bytes of at least 268435456 (256 MiB)"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What is refused, as a failure, before it costs memory or time."""

    max_pixels: int = MAX_PIXELS  # width x height of a decoded picture
    max_duration_s: float | None = None  # of a video; null: none is too long

    def __post_init__(self) -> None:
        if self.max_duration_s is not None and self.max_duration_s <= 0:
            raise ValueError(f"limits.max_duration_s is {self.max_duration_s}; it must be above 0, or null")
        if self.max_pixels < 1:
            raise ValueError(f"limits.max_pixels is {self.max_pixels}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """Everything `run_ingest` needs to know."""

    sources: tuple[str, ...]  # files, folders, globs, listings, tars: paths or URIs
    out: str  # the dataset: a folder or an s3:// URI
    conversations: str | None = None  # a listing whose conversations are added to the sources
    sampling: FrameSampling = field(default_factory=FrameSampling)
    frames: FrameStorage = field(default_factory=FrameStorage)
    split: SplitRule = field(default_factory=SplitRule)
    target_shard_bytes: int = 128 * 1000**2  # planned size of a shard; the real one follows the content
    segment_cost_s: float = 1.5  # CPU seconds of decoding in one segment of a long video, and in one task
    partial: bool = False  # keep what decodes of damaged videos
    limits: Limits = field(default_factory=Limits)
    batch_videos: int = 20_000  # most sources that are planned at once: the driver holds the plans of one batch
    batch_bytes: int = 100 * 1000**3  # most bytes of sources in a batch, unless a single one is larger
    watchdog: Watchdog = field(default_factory=Watchdog)
    max_failure_fraction: float = 0.5  # share of the videos that may fail before the job counts as failed
    ray_address: str | None = None  # of a running Ray cluster; null starts Ray on this machine
    num_cpus: int | None = None  # cores of the local Ray; null takes all. Only for a Ray started here

    def __post_init__(self) -> None:
        if not self.sources:
            raise ValueError("sources is empty; name at least one file, folder, glob or listing to ingest")
        if not self.out:
            raise ValueError("out is empty; name the folder or s3:// URI that the dataset goes to")
        if self.target_shard_bytes < 1000:
            raise ValueError(f"target_shard_bytes is {self.target_shard_bytes}; it must be at least 1000 bytes")
        if self.segment_cost_s <= 0:
            raise ValueError(f"segment_cost_s is {self.segment_cost_s}; it must be above 0 seconds")
        if self.batch_videos < 1 or self.batch_bytes < 1:
            raise ValueError(
                f"batch_videos is {self.batch_videos} and batch_bytes is {self.batch_bytes}; both must be at least 1"
            )
        if not 0 <= self.max_failure_fraction <= 1:
            raise ValueError(f"max_failure_fraction is {self.max_failure_fraction}; it must be from 0 to 1")
        if self.num_cpus is not None and self.num_cpus < 1:
            raise ValueError(f"num_cpus is {self.num_cpus}; it must be at least 1, or null for all cores")

    def shaping(self) -> dict[str, Any]:
        """The settings that decide the dataset's bytes, JSON-ready."""
        return {
            "format_version": FORMAT_VERSION,
            "recipe_version": RECIPE_VERSION,
            "sampling": asdict(self.sampling),
            "frames": asdict(self.frames),
            "split": asdict(self.split),
            "target_shard_bytes": self.target_shard_bytes,
        }

    @property
    def digest(self) -> str:
        """Digest ("sha256:…") of `shaping`."""
        return digest_of(self.shaping())

    @property
    def work_digest(self) -> str:
        """Digest ("sha256:…") of all settings that decide what is staged on the way: segments, and what fails."""
        return digest_of([self.digest, self.segment_cost_s, self.partial, asdict(self.limits)])
