"""What a dataset holds, in numbers: from the manifest and the failures alone, no shard is opened.

manifest rows ──> durations, frames, video tokens ──> totals and percentiles, of all samples and of each split.
Video tokens are those of all stored frames at the model's resolution; a reader with a frame or token limit uses fewer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.manifest_io import read_failures, read_manifest
from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.data.manifest import Failure, Manifest, SampleRow

PERCENTILES = (0, 5, 25, 50, 75, 95, 99, 100)


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """How a quantity is distributed: the sum, and by percentile the value of an actual sample."""

    total: float
    mean: float
    percentiles: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbers:
    """Of a set of samples. num_unfit: samples whose frames the model does not take; they count in no token number."""

    num_samples: int
    num_conversations: int
    num_unfit: int
    duration_s: Spread
    frames: Spread
    video_tokens: Spread


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One sample's quantities. video_tokens: None where the model does not take its frames."""

    row: SampleRow
    video_tokens: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """A dataset in numbers, and the samples that they are made of."""

    manifest: Manifest
    samples: tuple[Measured, ...]
    total: Numbers
    splits: dict[str, Numbers]
    failures: tuple[Failure, ...]
    unfit: str  # why the first unfit sample is; empty if there is none

    @property
    def failures_by_class(self) -> dict[str, int]:
        """The commonest first."""
        counts = Counter(row.error_class for row in self.failures)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def statistics(data: str, processing: FrameProcessing | None = None) -> Statistics:
    """Reads manifest and failures. Without `processing`, the published model's resolution counts.

    Raises:
        FileNotFoundError: there is no finished dataset.
        ValueError: the manifest is damaged.
    """
    manifest = read_manifest(data)
    try:
        failures = read_failures(data)
    except FileNotFoundError:
        failures = ()
    samples, unfit = [], ""
    for row in manifest.samples:
        try:
            tokens: int | None = _video_tokens(row, processing or FrameProcessing())
        except ValueError as error:
            tokens, unfit = None, unfit or f"{row.id}: {error}"
        samples.append(Measured(row=row, video_tokens=tokens))
    names = sorted({row.split for row in manifest.samples})
    return Statistics(
        manifest=manifest,
        samples=tuple(samples),
        total=_numbers(samples),
        splits={name: _numbers([item for item in samples if item.row.split == name]) for name in names},
        failures=failures,
        unfit=unfit,
    )


def _video_tokens(row: SampleRow, processing: FrameProcessing) -> int:
    """For the published model as the manifest has them, else computed. ValueError: the model takes no such frames."""
    if row.num_tokens and processing == FrameProcessing():
        return row.num_tokens
    return num_video_tokens(row.num_frames, row.width, row.height, processing)


def _numbers(samples: Sequence[Measured]) -> Numbers:
    tokens = [item.video_tokens for item in samples if item.video_tokens is not None]
    return Numbers(
        num_samples=len(samples),
        num_conversations=sum(item.row.num_conversations for item in samples),
        num_unfit=len(samples) - len(tokens),
        duration_s=_spread([item.row.duration_ns / 1e9 for item in samples]),
        frames=_spread([item.row.num_frames for item in samples]),
        video_tokens=_spread(tokens),
    )


def _spread(values: Sequence[float]) -> Spread:
    if not values:
        return Spread(total=0, mean=0.0, percentiles={})
    # The value of a sample, never one between two samples: "the longest" and "the median" can be looked up.
    found = np.percentile(np.asarray(values), PERCENTILES, method="inverted_cdf").tolist()
    return Spread(
        total=sum(values), mean=sum(values) / len(values), percentiles=dict(zip(PERCENTILES, found, strict=True))
    )
