"""The values that pass from stage to stage of an ingest, and the Arrow schemas under which they travel through Ray.

`VideoSource → ProbedVideo → PlannedVideo (of Segments) → ShardPlan → staged segments → ShardCommit`. Each is complete
when built. Source bytes and raw pixels are in none of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from vamba.data.manifest import Failure, SampleRow, ShardRow
from vamba.data.sample import Conversation, Media, Store

MAX_PIXELS = 2**27  # 16384 x 8192: what limits.max_pixels is by default


class IngestError(Exception):
    """Something wrong with one video. It becomes a `Failure` row; the job goes on."""

    def __init__(self, error_class: str, message: str) -> None:
        super().__init__(message)
        self.error_class = error_class  # a short stable word
        self.message = message  # one paragraph for the user

    def __reduce__(self) -> tuple[Any, ...]:
        return IngestError, (self.error_class, self.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Location:
    """Where the bytes of a source are: a file, an object, or a member of a tar."""

    uri: str  # absolute path, or a URI with a scheme; of the tar that holds a member
    offset_bytes: int = 0  # where the source begins in it
    length_bytes: int | None = None  # None: to the end


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoSource:
    """A video or an image to ingest."""

    id: str  # [a-z0-9_-]+, unique, from the path
    uri: str  # absolute path or URI; of a member of a tar "<tar>#<name of the member>"
    size_bytes: int  # -1 if the file cannot be seen
    mtime_ns: int  # when the file last changed, 0 if unknown; only to notice changes between two runs
    split: str | None  # None: decided by the digest of the bytes
    conversations: tuple[Conversation, ...]
    media: Media = "video"
    offset_bytes: int | None = None  # of a member of a tar: where its content begins; `size_bytes` is its length

    @property
    def location(self) -> Location:
        """Where its bytes are."""
        if self.offset_bytes is None:
            return Location(uri=self.uri)
        tar_uri = self.uri.rpartition("#")[0]
        return Location(uri=tar_uri, offset_bytes=self.offset_bytes, length_bytes=self.size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedVideo:
    """What demuxing tells about a video. The arrays hold one entry per packet, in decode order."""

    digest: str  # "sha256:…" of the file's bytes
    container: str  # ffmpeg's name of the container
    codec: str  # ffmpeg's name of the codec
    stream_index: int  # of the video stream
    time_base: Fraction  # seconds per pts unit
    width: int  # coded, pixels
    height: int  # coded, pixels
    pixel_aspect: Fraction  # width of a pixel over its height
    orientation: str  # what turns a decoded frame upright: letters of "t" (transpose), "x", "y" (mirror)
    average_fps: Fraction
    pixel_format: str  # ffmpeg's name
    is_hdr: bool  # the first frame is tagged as PQ or HLG
    is_interlaced: bool  # the first frame is woven from two fields
    has_audio: bool
    mean_key_bytes: int  # of a keyframe, encoded
    pts: np.ndarray  # int64
    dts: np.ndarray  # int64
    is_key: np.ndarray  # bool
    is_shown: np.ndarray  # bool: presented (not before an edit list's start, not an invisible frame)
    end_pts: int  # when the last frame leaves the screen
    is_counted: bool = False  # its packets have no times, pts are numbers of frames; see counted.py
    damage: IngestError | None = None  # what is wrong with it, if it is to be kept in part


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbedImage:
    """What the header of a picture tells."""

    digest: str  # "sha256:…" of the file's bytes
    format: str  # "jpeg", "png", …
    mode: str  # Pillow's name of how pixels are stored
    width: int  # pixels, before it is turned upright
    height: int
    orientation: str  # as in ProbedVideo
    has_profile: bool  # it names its colours by an ICC profile

    @property
    def pixel_aspect(self) -> Fraction:
        """As in ProbedVideo. What files say of it is a matter of printing."""
        return Fraction(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Consecutive whole GOPs of a video (GOP: the frames from one keyframe up to the next, as presented)."""

    name: str  # unique in the ingest: "<video id>.<index>"
    key_pts: int  # the keyframe that decoding starts at
    key_dts: int
    target_pts: tuple[int, ...]  # the frames to store, strictly increasing
    cost_s: float  # estimated CPU seconds, and waiting for a remote source
    seeks: tuple[tuple[int, int], ...] = ()  # pts and dts of later keyframes that reading jumps to


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedVideo:
    """All that is known before a frame is decoded; its segments tile its targets. An image is a video of one frame."""

    source: VideoSource
    digest: str  # "sha256:…"
    split: str
    codec: str
    stream_index: int
    time_base: Fraction
    store: Store
    width: int  # of the stored frames, pixels
    height: int
    orientation: str
    duration_ns: int
    frame_bytes: int  # about, of a stored frame
    timestamps_ns: tuple[int, ...]
    probe: dict[str, Any]  # for the sample's JSON
    segments: tuple[Segment, ...]

    @property
    def is_counted(self) -> bool:
        """See `ProbedVideo`."""
        return self.probe.get("times") == "counted"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardPlan:
    """Which samples a shard will hold, in order."""

    name: str  # "shard-000000.tar"
    videos: tuple[PlannedVideo, ...]

    @property
    def num_segments(self) -> int:
        return sum(len(video.segments) for video in self.videos)


@dataclass(frozen=True, slots=True, kw_only=True)
class H264:
    """How frames become H.264; see h264.py."""

    gop_frames: int
    crf: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeRequest:
    """What a decoder process needs to decode one segment, or an image: of that, only its place and how it is stored."""

    uri: str
    offset_bytes: int = 0  # see Location
    length_bytes: int | None = None
    codec: str
    stream_index: int
    key_pts: int
    key_dts: int
    target_pts: tuple[int, ...]
    width: int  # of the stored frames, pixels
    height: int
    orientation: str
    jpeg_quality: int
    h264: H264 | None = None  # None: JPEG
    seeks: tuple[tuple[int, int], ...] = ()  # see `Segment`
    max_pixels: int = MAX_PIXELS  # of a decoded picture

    @property
    def location(self) -> Location:
        """Where the bytes of the video are."""
        return Location(uri=self.uri, offset_bytes=self.offset_bytes, length_bytes=self.length_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardCommit:
    """A packed shard: its row, the rows of its samples, and what failed in it. `shard` is None if nothing was left."""

    shard: ShardRow | None
    samples: tuple[SampleRow, ...]
    failures: tuple[Failure, ...]


def shard_name(number: int) -> str:
    """Name of a shard, by its number in the dataset, from 0."""
    return f"shard-{number:06d}.tar"


def shard_number(name: str) -> int:
    """The inverse of `shard_name`."""
    return int(name.removeprefix("shard-").removesuffix(".tar"))
