"""The frames of a planned video, decoded as an ingest decodes them, on as many processes as are asked for."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

from pipelines.evaluation.ask import UnreadableVideoError

if TYPE_CHECKING:
    from pipelines.ingest.types import DecodeRequest, IngestError, PlannedVideo


def decode_planned(
    planned: PlannedVideo,
    *,
    jpeg_quality: int,
    num_processes: int,
) -> list[bytes]:
    """JPEG files in presentation order. Raises `UnreadableVideoError`."""
    from pipelines.ingest.requests import requests_of

    requests = requests_of(planned, jpeg_quality)
    if planned.is_counted:
        return [frame for request in requests for frame in _decode_counted(request)]
    num_processes = min(num_processes, len(requests))
    if num_processes == 1:
        return [frame for request in requests for frame in _decode_request(request)]
    with ProcessPoolExecutor(num_processes, mp_context=get_context("spawn")) as pool:
        return [frame for part in pool.map(_decode_request, requests) for frame in part]


def _decode_counted(request: DecodeRequest) -> list[bytes]:
    from pipelines.ingest.counted import decode_counted
    from pipelines.ingest.types import IngestError

    try:
        return decode_counted(request)
    except IngestError as error:
        raise _unreadable(request, error) from error


def _decode_request(request: DecodeRequest) -> list[bytes]:
    """One segment, the slow way where the fast one fails, as in an ingest."""
    from pipelines.ingest.decode import decode_segment, decode_sequentially
    from pipelines.ingest.types import IngestError

    try:
        return decode_segment(request)
    except IngestError:
        try:
            return decode_sequentially(request)
        except IngestError as error:
            raise _unreadable(request, error) from error


def _unreadable(request: DecodeRequest, error: IngestError) -> UnreadableVideoError:
    return UnreadableVideoError(f"{request.uri} can't be decoded ({error.error_class}): {error.message}")
