"""What is told about the sources, while they are listed and when they are known."""

from __future__ import annotations

import time
from collections.abc import Callable

from pipelines.ingest.progress import IngestStatus, Progress
from pipelines.ingest.sources import FoundSources


def listing_progress(progress: Progress) -> Callable[[int], None]:
    """Tells `progress` how many sources are listed so far."""
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


def tell_about_sources(sources: FoundSources, progress: Progress) -> None:
    """What there is to ingest, and what is passed over."""
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
