"""Decodes what can be trusted of a damaged segment, for `--partial`.

Data: `DecodeRequest` → the stream from its start (a damaged file may not seek) → GOPs from the segment's keyframe on →
the targets that come, in decode order, before the first error of their GOP. What follows an error may
refer to it and is not trusted, though it may look right, nor is the picture just before, in which the damage may begin
unnoticed (HEVC decodes nonsense without a complaint). The next keyframe starts afresh.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import av

from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import deinterlace, is_interlaced
from pipelines.ingest.encode import store_frame, store_some_frames
from pipelines.ingest.types import DecodeRequest


def salvage_segment(request: DecodeRequest) -> list[bytes | None]:
    """What is staged of the request's targets, in presentation order; None where one is lost."""
    kept: dict[int, bytes] = {}
    with open_container(request.location, request.max_pixels) as container:
        stream = container.streams[request.stream_index]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        before: _Gop | None = None
        for gop, following in _gops(_packets(container, stream, request.key_pts), stream.codec_context, request):
            kept.update(gop.finish(following))
            if before is not None and gop.first_error == 0:
                kept.pop(before.last_pts, None)  # the damage may begin in it, unnoticed
            if gop.begins_after_last_target:
                break
            before = gop
    return store_some_frames([kept.get(pts) for pts in request.target_pts], request)


def _gops(packets: Iterator[Any], context: Any, request: DecodeRequest) -> Iterator[tuple[_Gop, list[Any]]]:
    """GOPs that were fed, each with the next keyframe and the pictures that lead it."""
    gop = _Gop(context, request)
    following: list[Any] = []
    for packet in packets:
        if packet.pts is None:  # its header is lost
            gop.fail()
        elif following and packet.pts < following[0].pts:
            following.append(packet)
        else:
            if following:
                yield gop, following
                gop = _Gop(context, request)
                gop.feed(following.pop(0))
                following = []
            if gop.has_begun and packet.is_keyframe:
                following = [packet]
            else:
                gop.feed(packet)
    yield gop, following
    if following:
        gop = _Gop(context, request)
        gop.feed(following[0])
        yield gop, []


def _packets(container: Any, stream: Any, key_pts: int) -> Iterator[Any]:
    """From the keyframe on, as far as the container can be read."""
    found = False
    try:
        for packet in container.demux(stream):
            found = found or (packet.is_keyframe and packet.pts == key_pts)
            if found and packet.size:
                yield packet
    except av.error.FFmpegError:
        return


class _Gop:
    """Decodes one GOP until an error."""

    def __init__(self, context: Any, request: DecodeRequest) -> None:
        self._context = context
        self._request = request
        self._targets = set(request.target_pts)
        self._positions: dict[int, int] = {}  # in decode order, by pts
        self._stored: dict[int, bytes] = {}
        self.first_error: int | None = None  # position
        self.last_pts = 0  # of the packets fed

    @property
    def has_begun(self) -> bool:
        """Whether its keyframe was fed."""
        return bool(self._positions)

    @property
    def begins_after_last_target(self) -> bool:
        """Whether no target is in it, nor in what follows."""
        return self.has_begun and next(iter(self._positions)) > self._request.target_pts[-1]

    def feed(self, packet: Any) -> None:
        """The next packet in decode order."""
        self.last_pts = packet.pts
        position = self._positions.setdefault(packet.pts, len(self._positions))
        if self.first_error is not None:
            return
        if packet.is_corrupt:
            self._fail(position)
            return
        self._decode(packet, position)

    def fail(self) -> None:
        """What comes from here on is not trusted."""
        self._fail(len(self._positions))

    def finish(self, following: list[Any]) -> dict[int, bytes]:
        """The trusted targets, by pts. `following`, the next keyframe and the pictures that lead it, ends this GOP."""
        next_key_pts = following[0].pts if following else None
        for packet in following if len(following) > 1 else []:
            self.feed(packet)
        self._decode(None, len(self._positions))
        self._context.flush_buffers()
        trusted = len(self._positions) if self.first_error is None else self.first_error - 1
        return {
            pts: frame for pts, frame in self._stored.items() if self._positions[pts] < trusted and pts != next_key_pts
        }

    def _decode(self, packet: Any, position: int) -> None:
        try:
            frames = self._context.decode(packet)
        except av.error.FFmpegError:
            self._fail(position)
            return
        for frame in frames:
            if frame.pts not in self._positions:
                continue
            if frame.is_corrupt:
                self._fail(self._positions[frame.pts])
            elif frame.pts in self._targets:
                self._stored.setdefault(frame.pts, self._store(frame))

    def _fail(self, position: int) -> None:
        self.first_error = position if self.first_error is None else min(self.first_error, position)

    def _store(self, frame: Any) -> bytes:
        request = self._request
        return store_frame(deinterlace(frame) if is_interlaced(frame, request.codec) else frame, request)
