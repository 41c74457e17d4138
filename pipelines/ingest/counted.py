"""Decodes videos whose packets do not say when they are shown: the frames are counted.

AVI stores a frame in every tick of a fixed rate, in the order of decoding, and no presentation times. With B-frames the
order of presentation is another, and only the decoder knows it: frame n that comes out of it is shown at tick n. That
is exact if as many frames come out as packets went in, without an error; so a stream is always decoded to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import deinterlace, is_interlaced
from pipelines.ingest.encode import store_frame, store_frames
from pipelines.ingest.types import DecodeRequest, IngestError


def decode_counted(request: DecodeRequest) -> list[bytes]:
    """What is staged of the request's targets, which are numbers of frames, in presentation order.

    Raises:
        IngestError: "corrupt", if the stream does not decode cleanly from its start to its end.
    """
    return store_frames(list(counted_frames(request)), request)


def counted_frames(request: DecodeRequest) -> Iterator[bytes]:
    """The targets one by one, as `store_frame` gives them. Whether their times are right is known at the end alone.

    Raises:
        IngestError: as `decode_counted`, perhaps after the last target.
    """
    targets = frozenset(request.target_pts)
    num_packets = num_frames = 0
    with open_container(request.location, request.max_pixels) as container:
        stream = container.streams[request.stream_index]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        try:
            for packet in container.demux(stream):
                num_packets += packet.size > 0
                for frame in stream.codec_context.decode(packet):
                    if frame.is_corrupt:
                        raise IngestError("corrupt", f"frame {num_frames} was decoded with errors")
                    if num_frames in targets:
                        yield _store(frame, request)
                    num_frames += 1
        except av.error.FFmpegError as error:
            raise IngestError("corrupt", f"decoding failed after {num_frames} frames: {error.strerror}") from error
    if num_frames != num_packets:
        raise IngestError(
            "corrupt",
            f"{num_frames} frames come out of {num_packets} packets, so their times cannot be counted; re-encode it",
        )


def _store(frame: Any, request: DecodeRequest) -> bytes:
    return store_frame(deinterlace(frame) if is_interlaced(frame, request.codec) else frame, request)
