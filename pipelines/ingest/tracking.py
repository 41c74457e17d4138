"""Counts what is done over all batches of an ingest, and tells it as progress."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.ingest.progress import IngestStatus, Progress
from pipelines.ingest.types import PlannedVideo
from vamba.data.manifest import Failure


class Tracker:
    """Sources and hours of media, by stage. Times are those of this run alone."""

    def __init__(self, progress: Progress, num_sources: int) -> None:
        self._progress = progress
        self._num_sources = num_sources
        self._num_probed = 0
        self._num_before = 0  # finished or failed in batches before
        self._num_failed = 0
        self._media_s = {"probe": 0.0, "decode": 0.0}
        self._elapsed_s = {"probe": 0.0, "decode": 0.0}
        self._num_whole = 0
        self._left: dict[str, int] = {}  # segments of each video of the batch
        self._segment_s: dict[str, float] = {}  # media in one of them, on average
        self._failed: set[str] = set()

    def note(self, text: str) -> None:
        """A sentence about something that happened once."""
        self._progress.note(text)

    def skip(self, num_sources: int, num_failed: int) -> None:
        """An earlier run has finished these."""
        self._num_probed += num_sources
        self._num_before += num_sources
        self._num_failed += num_failed

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures the time of a stage."""
        started_s = time.monotonic()
        before_s = self._elapsed_s[name]
        self._clock = lambda: before_s + time.monotonic() - started_s
        try:
            yield
        finally:
            self._elapsed_s[name] = self._clock()

    def probed(self, results: Iterable[PlannedVideo | Failure]) -> None:
        """Some sources were probed."""
        for item in results:
            self._num_probed += 1
            if isinstance(item, Failure):
                self._num_failed += 1
            else:
                self._media_s["probe"] += item.duration_ns / 1e9
        self._tell("probe", self._num_probed, self._num_failed)

    def begin_decoding(self, videos: Sequence[PlannedVideo], done: Iterable[str], num_probe_failures: int) -> None:
        """These videos are to be decoded, and these segments of them are done."""
        self._num_before += self._num_whole + num_probe_failures
        self._num_whole = 0
        self._num_failed += len(self._failed)
        self._failed = set()
        self._left = {video.source.id: len(video.segments) for video in videos}
        self._segment_s = {video.source.id: video.duration_ns / 1e9 / len(video.segments) for video in videos}
        for name in done:
            self._pass(name)

    def finish(self, segment: str, *, failed: bool) -> None:
        """A segment was decoded."""
        video_id = segment.rpartition(".")[0]
        self._pass(segment)
        self._media_s["decode"] += self._segment_s[video_id]
        if failed:
            self._failed.add(video_id)

    def tell_decoding(self) -> None:
        """Tells where decoding is."""
        self._tell("decode", self._num_before + self._num_whole, self._num_failed + len(self._failed))

    def _pass(self, segment: str) -> None:
        video_id = segment.rpartition(".")[0]
        self._left[video_id] -= 1
        self._num_whole += self._left[video_id] == 0

    def _tell(self, stage: str, videos_done: int, num_failed: int) -> None:
        self._progress.update(
            IngestStatus(
                stage=stage,
                videos_done=videos_done,
                num_videos=self._num_sources,
                media_s=self._media_s[stage],
                num_failed=num_failed,
                elapsed_s=self._clock(),
            )
        )
