"""Looks into one video without decoding it: packets, times, keyframes, size, rotation, sound.

Data: path → sniffed head → sha256 of the bytes → demuxed packet index → one decoded keyframe (for what only a frame
tells: orientation) → `ProbedVideo`. What is wrong with the file becomes an `IngestError` with a stable class. Runs in a
decoder process (see sandbox.py), since damaged files can take the native libraries down.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.stream import Disposition

from pipelines.ingest.container import open_container
from pipelines.ingest.deinterlace import is_interlaced
from pipelines.ingest.sniff import HEAD_BYTES, foreign_kind, mp4_damage
from pipelines.ingest.tonemap import is_hdr
from pipelines.ingest.types import IngestError, ProbedVideo

_TRUNCATION_TOLERANCE_S = 1.0
_NUM_ORDER_FRAMES = 32  # enough to see whether presentation times go backwards
_HASH_BLOCK_BYTES = 1 << 20


@dataclass(slots=True)
class _PacketIndex:
    pts: list[int] = field(default_factory=list)
    dts: list[int] = field(default_factory=list)
    is_key: list[bool] = field(default_factory=list)
    is_shown: list[bool] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    key_bytes: int = 0  # of all keyframes
    num_without_pts: int = 0
    corrupt: set[int] = field(default_factory=set)  # positions


def probe_video(path: str) -> ProbedVideo:
    """Probes the file at `path`.

    Raises:
        IngestError: with class "not_found", "permission_denied", "io_error", "empty", "not_a_video", "no_video_stream",
            "truncated", "corrupt", "no_timestamps" or "unsupported".
    """
    with _file_errors(path):
        status = os.stat(path)
        if not stat.S_ISREG(status.st_mode):
            raise IngestError("not_a_video", "it is a folder, a pipe or a device, not a file")
        size_bytes = status.st_size
        if size_bytes == 0:
            raise IngestError("empty", "the file has no bytes")
        with open(path, "rb") as file:
            head = file.read(HEAD_BYTES)
            kind = foreign_kind(head)
            if kind is not None:
                raise IngestError("not_a_video", f"the file is {kind}, whatever its name says")
            damage = mp4_damage(file, size_bytes)
            if damage is not None:
                raise IngestError("truncated", damage)
            digest = _hash(file)
        return _probe_media(path, digest)


@contextmanager
def _file_errors(path: str) -> Iterator[None]:
    try:
        yield
    except av.error.FFmpegError as error:
        raise IngestError("corrupt", f"ffmpeg cannot read it: {error.strerror or error}") from error
    except FileNotFoundError as error:
        raise IngestError("not_found", f"there is no file at {path}") from error
    except PermissionError as error:
        raise IngestError("permission_denied", "the file may not be read by this user") from error
    except OSError as error:
        raise IngestError("io_error", f"reading failed: {error.strerror or error}") from error


def _hash(file: Any) -> str:
    file.seek(0)
    state = hashlib.sha256()
    while block := file.read(_HASH_BLOCK_BYTES):
        state.update(block)
    return "sha256:" + state.hexdigest()


def _probe_media(path: str, digest: str) -> ProbedVideo:
    with open_container(path) as container:
        stream = video_stream(container)
        index = _index_packets(container, stream)
        has_audio = bool(container.streams.audio)
        header_frames, average_fps = stream.frames, stream.average_rate or Fraction(0)
        if not index.pts:
            if index.num_without_pts:
                raise IngestError("no_timestamps", "its packets carry no presentation times; remux it (to MP4 or MKV)")
            raise IngestError("no_video_stream", "it declares a video stream but holds no video packets")
        if index.corrupt == {len(index.pts) - 1}:
            raise IngestError("truncated", "its last packet is incomplete: it was cut")
        if index.corrupt:
            raise IngestError("corrupt", f"{len(index.corrupt)} packets are incomplete: the file is damaged or was cut")
        if header_frames > len(index.pts) + index.num_without_pts + 1:
            missing = f"its header announces {header_frames} frames, {len(index.pts)} are there: it was cut"
            raise IngestError("truncated", missing)
        shown = _shown(index)
        if not shown.any():
            raise IngestError("corrupt", "it has no keyframe to start decoding from")
        _check_length(path, container, stream, _end_pts(index, np.ones_like(shown)))
        details = (container.format.name, stream.index, stream.time_base, stream.codec_context)
        container_name, stream_index, time_base, context = details
        pixel_aspect = stream.sample_aspect_ratio or Fraction(1)
    frames = _first_frames(path, stream_index, _NUM_ORDER_FRAMES if container_name == "avi" else 1)
    if any(later.pts <= earlier.pts for earlier, later in zip(frames, frames[1:], strict=False)):
        message = "an AVI file with B-frames keeps no presentation times; re-encode it, e.g. to H.264 in MP4"
        raise IngestError("no_timestamps", message)
    return ProbedVideo(
        digest=digest,
        container=container_name,
        codec=context.name,
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
        is_key=np.asarray(index.is_key, bool),
        is_shown=shown,
        end_pts=_end_pts(index, shown),
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
    film = max(films, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))
    if film.codec_context is None:
        raise IngestError("unsupported", "ffmpeg has no decoder for its video stream; re-encode it, e.g. to H.264")
    return film


def _index_packets(container: Any, stream: Any) -> _PacketIndex:
    index = _PacketIndex()
    is_vp8 = stream.codec_context.name == "vp8"
    for packet in container.demux(stream):
        if packet.size == 0:
            continue
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
    return index


def _shown(index: _PacketIndex) -> np.ndarray:
    """Which packets give a frame: not those before the first keyframe, nor the pictures that lead it."""
    shown = np.asarray(index.is_shown, bool)
    keys = np.flatnonzero(index.is_key)
    if not len(keys):
        return np.zeros_like(shown)
    shown[: keys[0]] = False
    return np.asarray(shown & (np.asarray(index.pts) >= index.pts[keys[0]]), bool)


def _end_pts(index: _PacketIndex, counted: np.ndarray) -> int:
    """When the last of the counted packets leaves the screen; an edit list hides what comes after its end."""
    last = max(np.flatnonzero(counted).tolist(), key=index.pts.__getitem__)
    ordered = sorted(index.pts)
    steps = sorted(later - earlier for earlier, later in zip(ordered, ordered[1:], strict=False))
    return index.pts[last] + (index.durations[last] or (steps[len(steps) // 2] if steps else 1))


def _check_length(path: str, container: Any, stream: Any, end_pts: int) -> None:
    """Compares the header's duration with the packets of containers that keep one."""
    if container.format.name not in ("matroska,webm", "flv", "avi") or not container.duration:
        return
    announced_s = (container.duration + max(container.start_time or 0, 0)) / 1_000_000
    tolerance_s = max(_TRUNCATION_TOLERANCE_S, 0.02 * announced_s)
    if announced_s - float(end_pts * stream.time_base) <= tolerance_s:
        return
    with open_container(path) as again:  # the sound may be the longer part
        last_s = max(
            (float((packet.pts + (packet.duration or 0)) * packet.time_base) for packet in again.demux() if packet.pts),
            default=0.0,
        )
    if announced_s - last_s > tolerance_s:
        raise IngestError(
            "truncated", f"its header announces {announced_s:.1f} s, its packets end at {last_s:.1f} s: it was cut"
        )


def _first_frames(path: str, stream_index: int, num_frames: int) -> list[Any]:
    """The first frames, decoded, in the order that the decoder presents them: at least one."""
    with open_container(path) as container:
        stream = container.streams[stream_index]
        stream.codec_context.thread_count = 1
        frames: list[Any] = list(itertools.islice(container.decode(stream), num_frames))
    if not frames:
        raise IngestError("corrupt", "no frame of it can be decoded")
    return frames


def _orientation(frame: Any) -> str:
    """The steps that turn a decoded frame upright, in order: "t" transposes, "x" mirrors left-right, "y" top-bottom."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return ""
    a, b, _, c, d = struct.unpack("=9i", bytes(matrix)[:36])[:5]
    if abs(a) >= abs(b):
        return ("x" if a < 0 else "") + ("y" if d < 0 else "")
    return "t" + ("x" if c < 0 else "") + ("y" if b < 0 else "")
