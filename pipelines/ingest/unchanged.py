"""Notices sources that were changed while they were ingested.

A sample carries the digest of what was probed, and its frames were decoded later, a range here and there. So before it
is packed, its source is looked at once more: another size or time than when it was listed makes it a failure. The next
run lists it as it is then.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.ingest.opening import is_local
from pipelines.ingest.types import PlannedVideo, VideoSource
from pipelines.ingest.walk import stat
from vamba.data.manifest import Failure

_THREADS = 16


def changed(videos: Sequence[PlannedVideo]) -> dict[str, Failure]:
    """By id, what is wrong with those of the videos whose sources have changed since they were listed.

    Not looked at: members of tars, and remote images, which are so small that one request reads them whole.
    """
    sources = [video.source for video in videos if _is_worth_a_look(video.source)]
    if all(is_local(source.location) for source in sources):
        found = list(map(_change, sources))
    else:
        with ThreadPoolExecutor(_THREADS) as pool:
            found = list(pool.map(_change, sources))
    return {failure.id: failure for failure in found if failure is not None}


def _is_worth_a_look(source: VideoSource) -> bool:
    return source.offset_bytes is None and (source.media == "video" or is_local(source.location))


def _change(source: VideoSource) -> Failure | None:
    size_bytes, mtime_ns = stat(source.uri)
    is_gone = size_bytes < 0  # after it was decoded: nothing is wrong with what was decoded
    has_new_time = bool(mtime_ns and source.mtime_ns) and mtime_ns != source.mtime_ns
    if is_gone or source.size_bytes < 0 or (size_bytes == source.size_bytes and not has_new_time):
        return None
    what = f"it had {source.size_bytes} bytes when it was listed, and has {size_bytes}"
    if size_bytes == source.size_bytes:
        what = "its time of last change is another than when it was listed"
    return Failure(
        stage="pack",
        id=source.id,
        source_uri=source.uri,
        error_class="changed",
        message=f"the file was changed while it was ingested: {what}; ingest it again with --retry-failures",
    )
