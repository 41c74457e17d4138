"""The chosen frames of one video file as pixels, in pieces, decoded a bounded way ahead of whoever looks at them.

    planned segments ──one process each, a few in flight──> JPEG files ──in a thread──> pieces of pixels

At any time a few segments' files and a few pieces are in memory, however long the video is. The frames are those of an ingest,
decoded by its functions.
"""  # noqa: E501

from __future__ import annotations

import os
from collections import deque
from collections.abc import Collection, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from typing import TYPE_CHECKING

import numpy as np

from pipelines.evaluation import confined
from pipelines.evaluation.ahead import ahead
from vamba.data.frames import decode_jpegs

if TYPE_CHECKING:
    from pipelines.ingest.types import DecodeRequest, IngestError, PlannedVideo
    from vamba.data.stored_frames import StoredFrames

_PIECE_FRAMES = 64
_PIECE_BYTES = 8 << 20
_PIECES_AHEAD = 2
_SEGMENTS_AHEAD = 1
"""Beyond one per process."""


class UnreadableVideoError(ValueError):
    """The file can't be decoded; the message says why."""


def decoded_pixels(planned: PlannedVideo, jpeg_quality: int, num_processes: int) -> Generator[np.ndarray, None, None]:
    """uint8[N, H, W, 3] of consecutive frames; decoding begins at once. num_processes: 0 means one per core.

    Raises UnreadableVideoError when its turn has come.
    """
    from pipelines.ingest.requests import requests_of

    requests = requests_of(planned, jpeg_quality)
    count = min(num_processes or os.cpu_count() or 1, len(requests))
    files: Iterator[bytes]
    if planned.is_counted:
        files = (file for request in requests for file in _counted(request))
    elif count == 1:
        files = (file for request in requests for file in _decoded(request))
    else:
        files = _in_processes(requests, count)
    return ahead(_pieces(files, planned.width, planned.height), _PIECES_AHEAD)


def stored_pixels(frames: StoredFrames) -> Generator[np.ndarray, None, None]:
    """uint8[N, H, W, 3] of consecutive frames of a sample."""
    size = _PIECE_FRAMES
    start = 0
    while start < len(frames):
        pixels = frames.decode(range(start, min(start + size, len(frames))))
        yield pixels
        start += len(pixels)


def frames_at(planned: PlannedVideo, numbers: Collection[int], jpeg_quality: int) -> dict[int, np.ndarray]:
    """uint8[H, W, 3] of a few of the chosen frames, by their places among them. Raises UnreadableVideoError."""
    from pipelines.ingest.requests import requests_of

    found: dict[int, np.ndarray] = {}
    first = 0
    for request in requests_of(planned, jpeg_quality):
        own = sorted(number for number in numbers if first <= number < first + len(request.target_pts))
        if own:
            # Without jumps: those were planned for all frames of the segment.
            some = replace(request, target_pts=tuple(request.target_pts[number - first] for number in own), seeks=())
            files = list(_counted(some)) if planned.is_counted else _decoded(some)
            found.update(zip(own, decode_jpegs(files), strict=True))
        first += len(request.target_pts)
    return found


def _pieces(files: Iterable[bytes], width: int, height: int) -> Iterator[np.ndarray]:
    size = max(2, min(_PIECE_FRAMES, _PIECE_BYTES // (3 * width * height)) // 2 * 2)
    waiting: list[bytes] = []
    for file in files:
        waiting.append(file)
        if len(waiting) == size:
            yield decode_jpegs(waiting)
            waiting = []
    if waiting:
        yield decode_jpegs(waiting)


def _in_processes(requests: list[DecodeRequest], count: int) -> Iterator[bytes]:
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=confined.prepare)
    try:
        running: deque[Future[list[bytes]]] = deque()
        for request in requests:
            running.append(pool.submit(_decoded_in_the_pool, request))
            if len(running) > count + _SEGMENTS_AHEAD:
                yield from running.popleft().result()
        while running:
            yield from running.popleft().result()
    except BrokenProcessPool as error:
        raise UnreadableVideoError(
            f"{requests[0].uri} can't be decoded: the process that did was killed, as happens where memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _decoded(request: DecodeRequest) -> list[bytes]:
    from pipelines.ingest.types import IngestError

    try:
        return confined.decode(request)
    except IngestError as error:
        raise _unreadable(request, error) from error


def _decoded_in_the_pool(request: DecodeRequest) -> list[bytes]:
    from pipelines.ingest.types import IngestError

    try:
        return confined.decode_here(request)
    except IngestError as error:
        raise _unreadable(request, error) from error


def _counted(request: DecodeRequest) -> Iterator[bytes]:
    from pipelines.ingest.counted import counted_frames
    from pipelines.ingest.types import IngestError

    try:
        yield from counted_frames(request)
    except IngestError as error:
        raise _unreadable(request, error) from error


def _unreadable(request: DecodeRequest, error: IngestError) -> UnreadableVideoError:
    return UnreadableVideoError(f"{request.uri} can't be decoded ({error.error_class}): {error.message}")
