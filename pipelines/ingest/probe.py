"""Looks into one video without decoding it: packets, times, keyframes, size, rotation, sound.

Data: location → sniffed head → demuxed packet index → one decoded keyframe (for what only a frame tells: orientation)
→ sha256 of the bytes → `ProbedVideo`. What is wrong with the file becomes an `IngestError` with a stable class. Runs in
a decoder process (see sandbox.py), since damaged files can take the native libraries down.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from pipelines.ingest.config import Limits
from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import is_interlaced
from pipelines.ingest.limits import check_duration, check_pixels
from pipelines.ingest.opening import LocalFile, SourceFile, checked_source
from pipelines.ingest.sniff import HEAD_BYTES, foreign_kind, mp4_damage
from pipelines.ingest.tonemap import is_hdr
from pipelines.ingest.types import IngestError, Location, ProbedVideo

_NO_LIMITS = Limits()
_TRUNCATION_TOLERANCE_S = 1.0
_NUM_ORDER_FRAMES = 32  # enough to see whether presentation times go backwards


def _integers() -> array[int]:
    return array("q")


@dataclass(slots=True)
class _PacketIndex:
    """Compact, since ten hours of 60 frames a second are two million packets."""

    pts: array[int] = field(default_factory=_integers)
    dts: array[int] = field(default_factory=_integers)
    is_key: bytearray = field(default_factory=bytearray)
    is_shown: bytearray = field(default_factory=bytearray)
    durations: array[int] = field(default_factory=_integers)
    key_bytes: int = 0  # of all keyframes
    num_without_pts: int = 0
    corrupt: set[int] = field(default_factory=set)  # positions


@dataclass(slots=True)
class _Damage:
    """Raises what is wrong with a file, or notes it where a part of the file is worth keeping."""

    is_kept: bool
    first: IngestError | None = None

    def report(self, error_class: str, message: str) -> None:
        error = IngestError(error_class, message)
        if not self.is_kept:
            raise error
        self.first = self.first or error


def probe_video(source: Location | str, limits: Limits = _NO_LIMITS, *, keep_damaged: bool = False) -> ProbedVideo:
    """Probes the bytes at `source`: a location, or the path or URI of a whole file.

    With `keep_damaged`, a file that was cut or is damaged inside is probed as far as it goes, and the result says what
    is wrong with it.

    Raises:
        IngestError: with class "not_found", "permission_denied", "unreachable", "io_error", "empty", "not_a_video",
            "no_video_stream", "truncated", "corrupt", "no_timestamps", "unsupported" or "too_long".
    """
    location = Location(uri=source) if isinstance(source, str) else source
    with checked_source(location, hashing=True) as file:
        kind = foreign_kind(file.read(HEAD_BYTES))
        if kind is not None:
            raise IngestError("not_a_video", f"the file is {kind}, whatever its name says")
        damage = _Damage(keep_damaged)
        if cut := mp4_damage(file, file.size_bytes):
            damage.report("truncated", cut)
        try:
            with _hashed(file) as digest:
                return _probe_media(file, limits, damage, digest)
        except av.error.MemoryError as error:
            raise MemoryError from error
        except av.error.FFmpegError as error:
            if damage.first is not None:
                raise damage.first from error
            raise IngestError("corrupt", f"ffmpeg cannot read it: {error.strerror or error}") from error


def probe_damaged_video(location: Location, limits: Limits) -> ProbedVideo:
    """`probe_video` with `keep_damaged`."""
    return probe_video(location, limits, keep_damaged=True)


@contextmanager
def _hashed(file: SourceFile) -> Iterator[Callable[[], str]]:
    """Hashes a local file on a second core, where there is one, while it is probed: what gives the digest in the end.

    Remote bytes are hashed as they come.
    """
    if not isinstance(file, LocalFile):
        yield file.sha256
        return
    with ThreadPoolExecutor(1) as thread:
        yield thread.submit(file.sha256).result


def _probe_media(file: SourceFile, limits: Limits, damage: _Damage, digest: Callable[[], str]) -> ProbedVideo:
    with open_container(file, limits.max_pixels) as container:
        stream = video_stream(container)
        check_pixels(stream.codec_context.width, stream.codec_context.height, limits.max_pixels)
        check_duration((container.duration or 0) / 1_000_000, limits)
        first_frames = _FirstFrames(stream.codec_context, container.format.name)
        index = _index_packets(container, stream, first_frames)
        has_audio = bool(container.streams.audio)
        header_frames, average_fps = stream.frames, stream.average_rate or Fraction(0)
        if not index.pts:
            if index.num_without_pts:
                raise IngestError("no_timestamps", "its packets carry no presentation times; remux it (to MP4 or MKV)")
            raise IngestError("no_video_stream", "it declares a video stream but holds no video packets")
        if index.corrupt == {len(index.pts) - 1}:
            damage.report("truncated", "its last packet is incomplete: it was cut")
        elif index.corrupt:
            damage.report("corrupt", f"{len(index.corrupt)} packets are incomplete: the file is damaged or was cut")
        num_there = len(index.pts) + index.num_without_pts
        if container.format.name == "avi":  # its header counts ticks, also those that show the frame before once more
            num_there = max(num_there, index.dts[-1] + 1)
        if header_frames > num_there + 1:
            missing = f"its header announces {header_frames} frames, {len(index.pts)} are there: it was cut"
            damage.report("truncated", missing)
        shown = _shown(index)
        if not shown.any():
            raise IngestError("corrupt", "it has no keyframe to start decoding from")
        _check_length(file, container, stream, _end_pts(index, np.ones_like(shown)), damage)
        details = (container.format.name, stream.index, stream.time_base, stream.codec_context)
        container_name, stream_index, time_base, context = details
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
        is_counted = False
    frames = first_frames.decoded()
    if container_name == "avi" and _hides_its_order(index, context, frames):
        index, shown, is_counted = _counted(index), np.ones(len(index.pts), bool), True
    return ProbedVideo(
        digest="sha256:" + digest(),
        container=container_name,
        codec=context.codec.canonical_name,
        stream_index=stream_index,
        time_base=time_base,
        width=context.width,
        height=context.height,
        pixel_aspect=pixel_aspect if pixel_aspect > 0 else Fraction(1),
        orientation=_orientation(frames[0]),
        average_fps=average_fps,
        pixel_format=frames[0].format.name,
        is_hdr=is_hdr(frames[0]),
        is_interlaced=is_interlaced(frames[0], context.name),
        has_audio=has_audio,
        mean_key_bytes=index.key_bytes // max(1, sum(index.is_key)),
        pts=np.asarray(index.pts, np.int64),
        dts=np.asarray(index.dts, np.int64),
        is_key=np.frombuffer(index.is_key, bool),
        is_shown=shown,
        end_pts=_end_pts(index, shown),
        damage=damage.first,
        is_counted=is_counted,
    )


def video_stream(container: Any) -> Any:
    """The stream that is the video: not cover art, the default one first, then the largest.

    Raises:
        IngestError: "no_video_stream", "not_a_video" (a still picture) or "unsupported" (no decoder).
    """
    streams = list(container.streams.video)
    films = [stream for stream in streams if not stream.disposition & Disposition.attached_pic]
    if container.format.name.endswith("_pipe") or container.format.name in ("image2", "tty"):
        raise IngestError("not_a_video", f"the file is a still picture or text (ffmpeg: {container.format.long_name})")
    if not films:
        what = "only cover art beside its sound" if streams else "sound only" if container.streams.audio else "no video"
        raise IngestError("no_video_stream", f"the file holds {what}")
    films = [stream for stream in films if stream.codec_context is not None]
    if not films:
        raise IngestError("unsupported", "ffmpeg has no decoder for its video stream; re-encode it, e.g. to H.264")
    return max(films, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))


class _FirstFrames:
    """Decodes the first frames while the packets are indexed, in the order that the decoder presents them.

    Opening the file again for them would read its index again, which is large in a long one.
    """

    def __init__(self, context: Any, container_name: str) -> None:
        context.thread_type, context.thread_count = "NONE", 1
        self._context = context
        self._num_wanted = _NUM_ORDER_FRAMES if container_name == "avi" else 1
        self._frames: list[Any] = []
        self._error: av.error.FFmpegError | None = None

    def feed(self, packet: Any) -> None:
        """A packet of the stream, None at its end."""
        if len(self._frames) >= self._num_wanted or self._error is not None:
            return
        try:
            self._frames += self._context.decode(packet)
        except av.error.FFmpegError as error:
            self._error = error

    def decoded(self) -> list[Any]:
        """At least one. Raises what the decoder raised, or IngestError "corrupt" if it gave none."""
        if self._error is not None:
            raise self._error
        if not self._frames:
            raise IngestError("corrupt", "no frame of it can be decoded")
        return self._frames[: self._num_wanted]


def _index_packets(container: Any, stream: Any, first_frames: _FirstFrames) -> _PacketIndex:
    index = _PacketIndex()
    is_vp8 = stream.codec_context.name == "vp8"
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
        first_frames.feed(packet)
        if packet.pts is None:
            index.num_without_pts += 1
            continue
        if packet.is_corrupt:
            index.corrupt.add(len(index.pts))
        index.pts.append(packet.pts)
        index.dts.append(packet.dts if packet.dts is not None else packet.pts)
        index.is_key.append(packet.is_keyframe)
        index.key_bytes += packet.size if packet.is_keyframe else 0
        invisible = is_vp8 and not memoryview(packet)[0] & 0x10  # an alternate reference: decoded, never shown
        index.is_shown.append(not packet.is_discard and not invisible)
        index.durations.append(packet.duration or 0)
    first_frames.feed(None)
    return index


def _shown(index: _PacketIndex) -> np.ndarray:
    """Which packets give a frame: not those before the first keyframe, nor the pictures that lead it."""
    shown = np.array(index.is_shown, np.uint8).astype(bool)
    keys = np.flatnonzero(np.frombuffer(index.is_key, np.uint8))
    if not len(keys):
        return np.zeros_like(shown)
    shown[: keys[0]] = False
    return np.asarray(shown & (np.asarray(index.pts) >= index.pts[keys[0]]), bool)


def _hides_its_order(index: _PacketIndex, context: Any, frames: list[Any]) -> bool:
    """Whether frames of an AVI file are presented in another order than its made-up times say."""
    if any(later.pts <= earlier.pts for earlier, later in zip(frames, frames[1:], strict=False)):
        return True
    is_in_order = all(later > earlier for earlier, later in zip(index.pts, index.pts[1:], strict=False))
    if context.has_b_frames:
        return is_in_order
    # Without B-frames the tick is the time. For H.264 it is made up as the next frame's: wrong where one is left out.
    return len({pts - dts for pts, dts in zip(index.pts, index.dts, strict=True)}) > 1


def _counted(index: _PacketIndex) -> _PacketIndex:
    """The index of an AVI file whose frames are counted (see counted.py): frame n is shown at tick n.

    Raises:
        IngestError: "no_timestamps", if a tick has no frame, so that counting gives no times.
    """
    ticks = range(len(index.dts))
    if [dts - index.dts[0] for dts in index.dts] != list(ticks) or not index.is_key[0] or index.num_without_pts:
        message = "an AVI file with B-frames that leaves frames out keeps no presentation times"
        raise IngestError("no_timestamps", f"{message}; re-encode it, e.g. to H.264 in MP4")
    starts = bytearray(tick == 0 for tick in ticks)  # decoding starts nowhere else
    ones = array("q", [1]) * len(ticks)
    return replace(
        index,
        pts=array("q", ticks),
        dts=array("q", ticks),
        is_key=starts,
        is_shown=bytearray(ones),
        durations=ones,
        key_bytes=index.key_bytes // max(1, sum(index.is_key)),
    )


def _end_pts(index: _PacketIndex, counted: np.ndarray) -> int:
    """When the last of the counted packets leaves the screen; an edit list hides what comes after its end."""
    pts = np.asarray(index.pts)
    candidates = np.flatnonzero(counted)
    last = int(candidates[np.argmax(pts[candidates])])
    duration = index.durations[last]
    if not duration:
        steps = np.sort(np.diff(np.sort(pts)))
        duration = int(steps[len(steps) // 2]) if len(steps) else 1
    return index.pts[last] + duration


def _check_length(file: SourceFile, container: Any, stream: Any, end_pts: int, damage: _Damage) -> None:
    """Compares the header's duration with the packets of containers that keep one."""
    if container.format.name not in ("matroska,webm", "flv", "avi") or not container.duration:
        return
    announced_s = (container.duration + max(container.start_time or 0, 0)) / 1_000_000
    tolerance_s = max(_TRUNCATION_TOLERANCE_S, 0.02 * announced_s)
    if announced_s - float(end_pts * stream.time_base) <= tolerance_s:
        return
    with open_container(file) as again:  # the sound may be the longer part
        last_s = max(
            (float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in again.demux() if packet.pts),
            default=0.0,
        )
    if announced_s - last_s > tolerance_s:
        damage.report(
            "truncated", f"its header announces {announced_s:.1f} s, its packets end at {last_s:.1f} s: it was cut"
        )


def _orientation(frame: Any) -> str:
    """The steps that turn a decoded frame upright, in order: "t" transposes, "x" mirrors left-right, "y" top-bottom."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ""
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    if abs(a) >= abs(b):
        return ("x" if a < 0 else "") + ("y" if d < 0 else "")
    return "t" + ("x" if c < 0 else "") + ("y" if b < 0 else "")
