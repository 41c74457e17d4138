"""Decodes exactly the frames that a segment asks for, and as few others as possible.

Data: `DecodeRequest` → packets from its first keyframe on, one GOP at a time → decoded target frames → deinterlaced →
JPEG bytes in presentation order. A GOP here is what is presented from one keyframe up to the next. Two savings leave
the frames bit-identical to a full decode:

* the tail: nothing after the last target (in decode order) is decoded;
* non-reference pictures that are no target are skipped, for codecs whose bitstream says that nothing refers to them.

An open GOP ends with pictures that follow the next keyframe in decode order and refer to it: that keyframe and those
pictures are decoded with it. The decoder is drained after every GOP, so a GOP decodes the same whatever came before,
and segments give the same bytes as one pass. Each GOP is checked: the decoded times must be the targets, without a
decoder error; otherwise it is decoded again in full, and `decode_sequentially` is the last resort.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import deinterlace, is_interlaced
from pipelines.ingest.encode import encode_frame
from pipelines.ingest.types import DecodeRequest, IngestError

# In these, "non-reference" means that no other picture uses it. HEVC says it only within a temporal layer.
_SKIPPABLE_CODECS = {"h264", "mpeg2video", "mpeg4"}
_SEEK_MARGINS_S = (0.0, 2.0, 20.0)


@dataclass(slots=True)
class _Gop:
    packets: list[Any]  # in decode order, the keyframe first; of the next GOP, the keyframe and its leading pictures
    num_own: int  # how many of them come before the next keyframe


def decode_segment(request: DecodeRequest) -> list[bytes]:
    """JPEG files of the request's targets, in presentation order.

    Raises:
        IngestError: "corrupt", if a target cannot be decoded without an error.
    """
    targets = frozenset(request.target_pts)
    jpegs: dict[int, bytes] = {}
    with open_container(request.location, request.max_pixels) as container:
        stream = _open_stream(container, request)
        for gop in _gops(_packets_from(container, stream, request)):
            wanted = {packet.pts for packet in gop.packets if packet.pts in targets and packet.pts not in jpegs}
            if wanted:
                jpegs.update(_decode_gop(stream.codec_context, gop, wanted, request))
            if len(jpegs) == len(targets):
                return [jpegs[pts] for pts in request.target_pts]
    missing = len(targets) - len(jpegs)
    raise IngestError("corrupt", f"{missing} of {len(targets)} frames of a segment were not found in the stream")


def decode_sequentially(request: DecodeRequest) -> list[bytes]:
    """The same by decoding the whole stream up to the last target, skipping nothing: slow, and needs no seeking.

    Raises:
        IngestError: "corrupt", as above.
    """
    targets = frozenset(request.target_pts)
    jpegs: dict[int, bytes] = {}
    with open_container(request.location, request.max_pixels) as container:
        stream = _open_stream(container, request)
        try:
            for frame in container.decode(stream):
                if frame.pts in targets:
                    _refuse_corrupt(frame)
                    jpegs.setdefault(frame.pts, _encode(frame, request))
                    if len(jpegs) == len(targets):
                        return [jpegs[pts] for pts in request.target_pts]
        except av.error.FFmpegError as error:
            raise IngestError("corrupt", f"decoding failed: {error.strerror or error}") from error
    missing = sorted(targets - jpegs.keys())
    seconds = float((missing[0] - request.target_pts[0]) * stream.time_base)
    raise IngestError(
        "corrupt",
        f"{len(missing)} of {len(targets)} frames cannot be decoded, the first {seconds:.1f} s into a segment",
    )


def _open_stream(container: Any, request: DecodeRequest) -> Any:
    stream = container.streams[request.stream_index]
    stream.thread_type = "NONE"  # one thread a process: segments are the parallelism
    stream.codec_context.thread_count = 1
    return stream


def _packets_from(container: Any, stream: Any, request: DecodeRequest) -> Iterator[Any]:
    """The stream's packets from the segment's keyframe on.

    Containers seek by dts, by index or by guessing; so the keyframe is looked for after each seek, from further back
    each time, at last from the start.
    """
    for margin_s in _SEEK_MARGINS_S:
        try:
            offset = request.key_dts - int(margin_s / stream.time_base)
            container.seek(offset, stream=stream, backward=True)
        except av.error.FFmpegError:
            break
        packets = _video_packets(container, stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts == request.key_pts:
                yield packet
                yield from packets
                return
            if packet.dts is not None and packet.dts > request.key_dts:
                break
    with open_container(request.location, request.max_pixels) as fresh:
        found = False
        for packet in _video_packets(fresh, fresh.streams[request.stream_index]):
            found = found or (packet.is_keyframe and packet.pts == request.key_pts)
            if found:
                yield packet


def _video_packets(container: Any, stream: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(stream) if packet.size and packet.pts is not None)


def _gops(packets: Iterator[Any]) -> Iterator[_Gop]:
    """Groups packets into GOPs. Holds the packets of one GOP and of the next one's leading pictures."""
    current: list[Any] = []
    following: list[Any] = []  # the next keyframe, then the pictures that lead it
    for packet in packets:
        if following and packet.pts < following[0].pts:
            following.append(packet)
            continue
        if following:
            yield _Gop(current + following, len(current))
            current, following = following[:1], []
        if current and packet.is_keyframe:
            following = [packet]
        elif not current or packet.pts > current[0].pts:  # others lead the first keyframe: a segment before owns them
            current.append(packet)
    yield _Gop(current + following, len(current))
    if following:
        yield _Gop(following[:1], 1)


def _decode_gop(context: Any, gop: _Gop, wanted: set[int], request: DecodeRequest) -> dict[int, bytes]:
    is_open = any(packet.pts in wanted for packet in gop.packets[gop.num_own + 1 :])
    own = [index for index, packet in enumerate(gop.packets[: gop.num_own]) if packet.pts in wanted]
    # The next keyframe belongs to the next GOP; it is decoded here only for the pictures that lead it.
    wanted = {packet.pts for packet in gop.packets[: gop.num_own] + gop.packets[gop.num_own + 1 :]} & wanted
    if not wanted:
        return {}
    needed = gop.packets if is_open else gop.packets[: own[-1] + 1]
    for packets, skip in ((needed, request.codec in _SKIPPABLE_CODECS), (gop.packets, False)):
        try:
            jpegs = _decode_packets(context, packets, wanted, request, skip=skip)
        except (av.error.FFmpegError, IngestError):
            jpegs = {}
        if jpegs.keys() == wanted:
            return jpegs
    raise IngestError("corrupt", f"{len(wanted)} frames after pts {gop.packets[0].pts} do not decode cleanly")


def _decode_packets(
    context: Any, packets: list[Any], wanted: set[int], request: DecodeRequest, *, skip: bool
) -> dict[int, bytes]:
    jpegs: dict[int, bytes] = {}
    setting = None
    try:
        for packet in [*packets, None]:
            if packet is not None:
                needed_setting = "NONREF" if skip and packet.pts not in wanted else "DEFAULT"
                if needed_setting != setting:
                    context.skip_frame = setting = needed_setting
            for frame in context.decode(packet):
                _refuse_corrupt(frame)
                if frame.pts in wanted:
                    jpegs.setdefault(frame.pts, _encode(frame, request))
    finally:
        context.flush_buffers()
    return jpegs


def _refuse_corrupt(frame: Any) -> None:
    if frame.is_corrupt:
        raise IngestError("corrupt", f"the frame at pts {frame.pts} was decoded with errors")


def _encode(frame: Any, request: DecodeRequest) -> bytes:
    return encode_frame(
        deinterlace(frame) if is_interlaced(frame, request.codec) else frame,
        width=request.width,
        height=request.height,
        orientation=request.orientation,
        jpeg_quality=request.jpeg_quality,
    )
