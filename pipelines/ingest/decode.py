"""Decodes exactly the frames that a segment asks for, and as few others as possible.

Data: `DecodeRequest` → its runs, each read from a keyframe on (the plan says where a seek is cheaper than reading on)
→ decoded target frames → deinterlaced → JPEG bytes in presentation order. A GOP here is what is presented from one
keyframe up to the next. Two savings leave the frames bit-identical to a full decode:

* the tail: nothing after the last target of a GOP (in decode order) is decoded, and nothing after that of a run read;
* non-reference pictures that are no target are skipped, for codecs whose bitstream says that nothing refers to them.

An open GOP ends with pictures that follow the next keyframe in decode order and refer to it: that keyframe and those
pictures are decoded with it. The decoder is drained after every GOP, so a GOP decodes the same whatever came before,
and segments give the same bytes as one pass. Each GOP is checked: the decoded times must be the targets, without a
decoder error; otherwise the segment is decoded again without the savings, and `decode_sequentially` is the last resort.
Memory holds the JPEG files of one segment and the packets since the last target, up to a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import av

from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import deinterlace, is_interlaced
from pipelines.ingest.encode import store_frame, store_frames
from pipelines.ingest.types import DecodeRequest, IngestError

# In these, "non-reference" means that no other picture uses it. HEVC says it only within a temporal layer.
_SKIPPABLE_CODECS = {"h264", "mpeg2video", "mpeg4"}
# These seek by presentation time; by dts they would land a whole GOP early. The others seek by dts, or guess by it.
_SEEKING_BY_PTS = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"}
_SEEK_MARGINS_S = (0.0, 2.0, 20.0)
# Packets that may still prove to be a tail; beyond, they are decoded to make room.
_MAX_HELD_BYTES = 32 * 1024**2


@dataclass(frozen=True, slots=True)
class _Run:
    """Targets that are read from one keyframe on without a seek."""

    key_pts: int
    key_dts: int
    targets: frozenset[int]


def decode_segment(request: DecodeRequest) -> list[bytes]:
    """The request's targets as they are stored, one by one and in presentation order: see `encode.store_frames`.

    Raises:
        IngestError: "corrupt", if a target cannot be decoded without an error.
    """
    try:
        jpegs = _decode_runs(request, thrifty=True)
    except (av.error.FFmpegError, IngestError):
        try:
            jpegs = _decode_runs(request, thrifty=False)
        except av.error.FFmpegError as error:
            raise IngestError("corrupt", f"a segment does not decode cleanly: {error.strerror or error}") from error
    return store_frames([jpegs[pts] for pts in request.target_pts], request)


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
                        return store_frames([jpegs[pts] for pts in request.target_pts], request)
        except av.error.FFmpegError as error:
            raise IngestError("corrupt", f"decoding failed: {error.strerror or error}") from error
    missing = sorted(targets - jpegs.keys())
    seconds = float((missing[0] - request.target_pts[0]) * stream.time_base)
    raise IngestError(
        "corrupt",
        f"{len(missing)} of {len(targets)} frames cannot be decoded, the first {seconds:.1f} s into a segment",
    )


def _decode_runs(request: DecodeRequest, *, thrifty: bool) -> dict[int, bytes]:
    jpegs: dict[int, bytes] = {}
    with open_container(request.location, request.max_pixels) as container:
        stream = _open_stream(container, request)
        for run in _runs(request):
            decoder = _RunDecoder(stream.codec_context, run, request, thrifty=thrifty)
            jpegs.update(decoder.decode(_packets_from(container, stream, run, request)))
    return jpegs


def _runs(request: DecodeRequest) -> list[_Run]:
    keys = [(request.key_pts, request.key_dts), *request.seeks]
    ends = [pts for pts, _ in request.seeks] + [request.target_pts[-1] + 1]
    starts = [request.target_pts[0], *ends[:-1]]
    return [
        _Run(*key, frozenset(pts for pts in request.target_pts if start <= pts < end))
        for key, start, end in zip(keys, starts, ends, strict=True)
    ]


def _open_stream(container: Any, request: DecodeRequest) -> Any:
    stream = container.streams[request.stream_index]
    stream.thread_type = "NONE"  # one thread a process: segments are the parallelism
    stream.codec_context.thread_count = 1
    return stream


def _packets_from(container: Any, stream: Any, run: _Run, request: DecodeRequest) -> Iterator[Any]:
    """The stream's packets from the run's keyframe on.

    Containers seek by pts, by dts, by index or by guessing; so the keyframe is looked for after each seek, from further
    back each time, at last from the start.
    """
    offsets = [run.key_dts - int(margin_s / stream.time_base) for margin_s in _SEEK_MARGINS_S]
    if container.format.name in _SEEKING_BY_PTS:
        offsets.insert(0, run.key_pts)
    for offset in offsets:
        try:
            container.seek(offset, stream=stream, backward=True)
        except av.error.FFmpegError:
            break
        packets = _video_packets(container, stream)
        for packet in packets:
            if packet.is_keyframe and packet.pts == run.key_pts:
                yield packet
                yield from packets
                return
            if packet.dts is not None and packet.dts > run.key_dts:
                break
    with open_container(request.location, request.max_pixels) as fresh:
        found = False
        for packet in _video_packets(fresh, fresh.streams[request.stream_index]):
            found = found or (packet.is_keyframe and packet.pts == run.key_pts)
            if found:
                yield packet


def _video_packets(container: Any, stream: Any) -> Iterator[Any]:
    return (packet for packet in container.demux(stream) if packet.size and packet.pts is not None)


class _RunDecoder:
    """Decodes the targets of a run, GOP by GOP, from packets in decode order that begin with its keyframe."""

    def __init__(self, context: Any, run: _Run, request: DecodeRequest, *, thrifty: bool) -> None:
        self._context = context
        self._request = request
        self._targets = run.targets
        self._thrifty = thrifty
        self._can_skip = thrifty and request.codec in _SKIPPABLE_CODECS
        self._jpegs: dict[int, bytes] = {}
        self._num_seen = 0  # targets whose packets were read
        # Of the GOP at hand:
        self._held: list[Any] = []  # read, but not yet known to be needed
        self._held_bytes = 0
        self._wanted: set[int] = set()
        self._has_fed = False

    def decode(self, packets: Iterator[Any]) -> dict[int, bytes]:
        """JPEG files by pts.

        Raises:
            IngestError: "corrupt", if one is missing or damaged.
            av.error.FFmpegError: the decoder said so.
        """
        try:
            self._read(packets)
            self._end_gop(next_pts=None)
        finally:
            self._context.flush_buffers()
        if len(self._jpegs) < len(self._targets):
            missing = len(self._targets) - len(self._jpegs)
            message = f"{missing} of {len(self._targets)} frames of a segment were not found in the stream"
            raise IngestError("corrupt", message)
        return self._jpegs

    def _read(self, packets: Iterator[Any]) -> None:
        key_pts: int | None = None
        following: list[Any] = []  # the next keyframe, then the pictures that lead it
        for packet in packets:
            if following and packet.pts >= following[0].pts:
                self._lead_out(following)
                if len(self._jpegs) == len(self._targets):
                    return
                key_pts = following[0].pts
                self._take(following[0])
                following = []
            if following or (key_pts is not None and packet.is_keyframe):
                following.append(packet)
                if self._sees_last(packet, following):
                    break
            elif key_pts is None or packet.pts > key_pts:  # others lead the first keyframe: a segment before owns them
                key_pts = packet.pts if key_pts is None else key_pts
                self._take(packet)
            if self._thrifty and not following and self._num_seen == len(self._targets):
                return
        if following:
            self._lead_out(following)
            self._take(following[0])

    def _sees_last(self, packet: Any, following: list[Any]) -> bool:
        """Whether a picture that leads the next keyframe is the last target."""
        is_target = len(following) > 1 and packet.pts in self._targets
        return self._thrifty and is_target and self._num_seen + self._num_targets(following[1:]) == len(self._targets)

    def _num_targets(self, packets: list[Any]) -> int:
        return len({packet.pts for packet in packets} & self._targets)

    def _take(self, packet: Any) -> None:
        """A packet of the GOP at hand: decoded when a target needs it."""
        is_target = packet.pts in self._targets
        self._num_seen += is_target and packet.pts not in self._wanted
        if is_target:
            self._wanted.add(packet.pts)
        self._held.append(packet)
        self._held_bytes += packet.size
        if is_target or self._held_bytes > _MAX_HELD_BYTES:
            self._feed_held()

    def _lead_out(self, following: list[Any]) -> None:
        """Ends the GOP at hand with the pictures that lead the next keyframe, and that keyframe before them."""
        led = [packet for packet in following[1:] if packet.pts in self._targets]
        self._wanted.update(packet.pts for packet in led)
        self._num_seen += len({packet.pts for packet in led})
        if led or (self._wanted and not self._thrifty):
            self._feed_held()
            self._feed(following)
        self._end_gop(next_pts=following[0].pts)

    def _feed_held(self) -> None:
        self._feed(self._held)
        self._held, self._held_bytes = [], 0

    def _feed(self, packets: list[Any]) -> None:
        setting = None
        for packet in packets:
            needed_setting = "NONREF" if self._can_skip and packet.pts not in self._targets else "DEFAULT"
            if needed_setting != setting:
                self._context.skip_frame = setting = needed_setting
            self._has_fed = True
            self._keep(self._context.decode(packet))

    def _keep(self, frames: list[Any]) -> None:
        for frame in frames:
            _refuse_corrupt(frame)
            # The next keyframe, decoded for the pictures that lead it, belongs to the next GOP.
            if frame.pts in self._wanted:
                self._jpegs.setdefault(frame.pts, _encode(frame, self._request))

    def _end_gop(self, next_pts: int | None) -> None:
        if self._wanted and not self._thrifty:
            self._feed_held()
        if self._has_fed:
            self._keep(self._context.decode(None))
            self._context.flush_buffers()
        missing = self._wanted - self._jpegs.keys()
        if missing:
            before = "the end" if next_pts is None else f"pts {next_pts}"
            raise IngestError("corrupt", f"{len(missing)} frames before {before} do not decode cleanly")
        self._held, self._held_bytes, self._wanted, self._has_fed = [], 0, set(), False


def _refuse_corrupt(frame: Any) -> None:
    if frame.is_corrupt:
        raise IngestError("corrupt", f"the frame at pts {frame.pts} was decoded with errors")


def _encode(frame: Any, request: DecodeRequest) -> bytes:
    return store_frame(deinterlace(frame) if is_interlaced(frame, request.codec) else frame, request)
