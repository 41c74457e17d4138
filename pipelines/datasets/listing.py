"""The samples of a dataset, one by one: the rows of its manifest that a filter lets through, in their order.

manifest.parquet ── batches of rows ──> filter ──> rows. No more than a batch is ever held as Python objects, so that a
dataset of a million videos is listed in constant memory. The manifest's digest is not checked here: `verify` does that.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pipelines.manifest_io import iterate_samples
from vamba.data.manifest import SampleRow
from vamba.data.sample import SPLITS, Media, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleFilter:
    """Which samples to list; each condition that is set must hold.

    Raises:
        ValueError: a condition that no sample can meet.
    """

    split: Split | None = None
    media: Media | None = None
    shard: str | None = None  # a pattern with * and ? for the shard's file name
    match: str | None = None  # a pattern with * and ? for the id or the URI of the source
    min_s: float | None = None  # seconds that the source lasts, at least
    max_s: float | None = None  # seconds that the source lasts, less than

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise ValueError(f"--split is {self.split!r}; it must be one of {', '.join(SPLITS)}")
        if self.media not in (None, "video", "image"):
            raise ValueError(f"--media is {self.media!r}; it must be video or image")
        if self.min_s is not None and self.max_s is not None and self.min_s >= self.max_s:
            raise ValueError(
                f"--min-seconds {self.min_s:g} and --max-seconds {self.max_s:g} leave nothing between them"
            )

    @property
    def is_empty(self) -> bool:
        """Whether it lets everything through."""
        return self == SampleFilter()

    def accepts(self, row: SampleRow) -> bool:
        """Whether the row is to be listed."""
        seconds = row.duration_ns / 1e9
        return (
            self.split in (None, row.split)
            and self.media in (None, row.media)
            and (self.shard is None or fnmatchcase(row.shard, self.shard))
            and (self.match is None or fnmatchcase(row.id, self.match) or fnmatchcase(row.source_uri, self.match))
            and (self.min_s is None or seconds >= self.min_s)
            and (self.max_s is None or seconds < self.max_s)
        )


def list_samples(data: str, chosen: SampleFilter) -> Iterator[SampleRow]:
    """The rows that the filter accepts, in the manifest's order.

    Raises:
        FileNotFoundError: there is no finished dataset.
    """
    return filter(chosen.accepts, iterate_samples(data))
