"""Every kind of file: the stored frames are those that an independent full decode shows at the asked times.

Each file is cut into as many segments as it has GOPs, so that seeking, open GOPs and skipping are all exercised; the
same frames must come out of one sequential pass, byte for byte.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import ffmpeg
import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment, decode_sequentially
from pipelines.ingest.plan import plan_video
from pipelines.ingest.probe import probe_video
from pipelines.ingest.requests import requests_of
from pipelines.ingest.types import DecodeRequest, PlannedVideo, Segment, VideoSource
from tests.pipelines.ingest.media import Decoded, decode_all, make_video, remux, run, with_edits
from vamba.data.sampling import FrameSampling

FPS = 2.5


def vfr(path: Path, **options: object) -> Path:
    times = "setpts='if(lt(N,15),N*1.3,if(lt(N,20),N*7,N*2))/(10*TB)'"
    defaults = {"fps_mode": "vfr", "g": 8, "video_track_timescale": 90000, **(options or {"bf": 2})}
    return make_video(path, filters=times, **defaults)  # type: ignore[arg-type]


def x264(**options: object) -> Callable[[Path], Path]:
    return lambda path: make_video(path, **options)  # type: ignore[arg-type]


def rotated(degrees: int) -> Callable[[Path], Path]:
    def make(path: Path) -> Path:
        plain = make_video(path.with_name("plain.mp4"), size="96x56")
        return remux(plain, path, {"display_rotation": degrees})

    return make


def anamorphic_rotated(path: Path) -> Path:
    plain = make_video(path.with_name("plain.mp4"), filters="setsar=4/3")
    return remux(plain, path, {"display_rotation": 90})


def edit_list(path: Path) -> Path:
    plain = make_video(path.with_name("plain.mp4"), bf=2, audio=True, acodec="aac")
    return remux(plain, path, {"ss": 0.7})


def edit_list_inside_an_open_gop(path: Path) -> Path:
    x265 = {"x265-params": "log-level=error:keyint=15:min-keyint=15:bframes=3"}
    plain = make_video(path.with_name("plain.mp4"), vcodec="libx265", audio=True, acodec="aac", **x265)
    return remux(plain, path, {"ss": 2.3})


def edit_list_of_two_parts(path: Path) -> Path:
    plain = make_video(path.with_name("plain.mp4"), bf=0, video_track_timescale=10240)
    return with_edits(plain, path, [(1000, 5 * 1024), (1000, 26 * 1024)])


def edit_list_after_nothing(path: Path) -> Path:
    plain = make_video(path.with_name("plain.mp4"), bf=2, video_track_timescale=10240)
    return with_edits(plain, path, [(700, -1), (2300, 5 * 1024)])


def negative_start(path: Path) -> Path:
    plain = make_video(path.with_name("plain.mp4"), bf=2)
    return remux(plain, path, output_ts_offset=-1.5, avoid_negative_ts="disabled")


def with_cover(path: Path) -> Path:
    """A cover that comes first and is larger than the film."""
    film, cover = make_video(path.with_name("film.mp4"), bf=2), path.with_name("cover.png")
    still = ffmpeg.input("color=red:size=640x480", f="lavfi")
    run(still.output(str(cover), vframes=1, f="image2", update=1, vcodec="png", pix_fmt="rgb24"))
    streams = [ffmpeg.input(str(cover))["v"], ffmpeg.input(str(film))["v"]]
    run(ffmpeg.output(*streams, str(path), **{"c": "copy", "disposition:v:0": "attached_pic"}))
    return path


def transport_stream_cut_inside(path: Path) -> Path:
    whole = make_video(path.with_name("whole.ts"), seconds=6, bf=2)
    path.write_bytes(whole.read_bytes()[188 * 40 :])
    return path


ZOO: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "h264-b-frames": ("a.mp4", x264(bf=3, audio=True, acodec="aac")),
    "h264-open-gop-pyramid": (
        "a.mp4",
        x264(**{"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}),
    ),
    "h264-all-intra": ("a.mov", x264(g=1)),
    "h264-one-gop": ("a.mp4", x264(g=500)),
    "odd-size-444": ("a.mp4", x264(size="97x65", pix_fmt="yuv444p")),
    "ntsc-rate": ("a.mp4", x264(fps="30000/1001", bf=2)),
    "vfr": ("a.mp4", vfr),
    "vfr-mkv": ("a.mkv", vfr),
    "rotated-90": ("a.mp4", rotated(90)),
    "rotated-180": ("a.mp4", rotated(180)),
    "rotated-270": ("a.mp4", rotated(270)),
    "edit-list": ("a.mp4", edit_list),
    "late-start": ("a.mp4", x264(output_ts_offset=5)),
    "anamorphic": ("a.mp4", x264(filters="setsar=4/3")),
    "ten-bit-hevc": (
        "a.mp4",
        x264(vcodec="libx265", pix_fmt="yuv420p10le", **{"x265-params": "log-level=error:keyint=12"}),
    ),
    "hevc-mkv": ("a.mkv", x264(vcodec="libx265", **{"x265-params": "log-level=error:keyint=12:bframes=3"})),
    "vp9": ("a.webm", x264(vcodec="libvpx-vp9", deadline="realtime")),
    "vp8-invisible-frames": (
        "a.webm",
        x264(vcodec="libvpx", deadline="good", **{"auto-alt-ref": 1, "lag-in-frames": 16, "cpu-used": 4}),
    ),
    "av1": ("a.mp4", x264(vcodec="libsvtav1", preset=12)),
    "transport-stream": ("a.ts", x264(bf=2)),
    "transport-stream-cut-inside": ("a.ts", transport_stream_cut_inside),
    "mpeg2-ts": ("a.ts", x264(vcodec="mpeg2video", bf=2, r=25)),
    "mpeg4-avi": ("a.avi", x264(vcodec="mpeg4")),
    "mjpeg-avi": ("a.avi", x264(vcodec="mjpeg", pix_fmt="yuvj420p")),
    "edit-list-inside-an-open-gop": ("a.mp4", edit_list_inside_an_open_gop),
    "edit-list-of-two-parts": ("a.mp4", edit_list_of_two_parts),
    "edit-list-after-nothing": ("a.mp4", edit_list_after_nothing),
    "negative-start-mp4": ("a.mp4", negative_start),
    "negative-start-mov": ("a.mov", negative_start),
    "negative-start-ts": ("a.ts", negative_start),
    "cover-art": ("a.mp4", with_cover),
    "odd-size-420": ("a.mkv", x264(size="97x65", vcodec="libvpx-vp9", deadline="realtime")),
    "anamorphic-rotated": ("a.mp4", anamorphic_rotated),
    "mpeg2-open-gop-ts": ("a.ts", x264(vcodec="mpeg2video", bf=2, g=9, r=25)),
    "mpeg2-mpg": ("a.mpg", x264(vcodec="mpeg2video", bf=2, g=9, r=25)),
    "mpeg2-mkv": ("a.mkv", x264(vcodec="mpeg2video", bf=2, g=9, r=25)),
    "mpeg4-b-frames": ("a.mp4", x264(vcodec="mpeg4", bf=2)),
    "prores": ("a.mov", x264(vcodec="prores_ks", pix_fmt="yuv422p10le")),
    "prores-4444": ("a.mov", x264(vcodec="prores_ks", pix_fmt="yuv444p10le")),
    "av1-mkv": ("a.mkv", x264(vcodec="libaom-av1", **{"cpu-used": 8, "lag-in-frames": 19})),
    "av1-ten-bit-webm": ("a.webm", x264(vcodec="libsvtav1", preset=12, pix_fmt="yuv420p10le")),
    "vp9-alternate-references": ("a.mkv", x264(vcodec="libvpx-vp9", **{"auto-alt-ref": 1, "cpu-used": 5, "bf": 0})),
    "vp9-mp4": ("a.mp4", x264(vcodec="libvpx-vp9", deadline="realtime")),
    "ten-bit-h264": ("a.mkv", x264(pix_fmt="yuv420p10le", bf=3)),
    "hevc-ts": ("a.ts", x264(vcodec="libx265", **{"x265-params": "log-level=error:keyint=12:bframes=3"})),
    "hevc-mov": ("a.mov", x264(vcodec="libx265", **{"x265-params": "log-level=error:keyint=12:bframes=3"})),
    "h264-avi": ("a.avi", x264(bf=0)),
    "vfr-hevc": ("a.mov", lambda path: vfr(path, vcodec="libx265", **{"x265-params": "log-level=error:bframes=3"})),
    "vfr-av1": ("a.webm", lambda path: vfr(path, vcodec="libsvtav1", preset=12)),
    "larger-than-stored": ("a.mp4", x264(size="320x200")),
}

ONE_SEGMENT = {"h264-one-gop", "vp9"}


def plan(path: Path, sampling: FrameSampling | None = None) -> PlannedVideo:
    sampling = sampling or FrameSampling(fps=FPS)
    config = IngestConfig(sources=(str(path),), out="-", sampling=sampling, segment_cost_s=1e-9)
    source = VideoSource(id="v", uri=str(path), size_bytes=0, mtime_ns=0, split=None, conversations=())
    return plan_video(source, probe_video(str(path)), config)


def request(video: PlannedVideo, segment: Segment) -> DecodeRequest:
    return requests_of(replace(video, segments=(segment,)), 95)[0]


def expected_indices(decoded: Decoded) -> list[int]:
    """The frame on screen at k/fps, for every k while a frame is on screen, each once."""
    chosen: list[int] = []
    k = 0
    while (time := k / Fraction(str(FPS))) < decoded.end:
        shown = max(index for index, value in enumerate(decoded.times) if value <= time)
        if not chosen or chosen[-1] != shown:
            chosen.append(shown)
        k += 1
    return chosen


@pytest.mark.parametrize("name", ZOO)
def test_frames_are_those_on_screen(name: str, tmp_path: Path) -> None:
    file_name, make = ZOO[name]
    path = make(tmp_path / file_name)
    video = plan(path)
    whole = decode_all(path, video.width, video.height)
    check_frames(video, whole, expected_indices(whole))


def check_frames(video: PlannedVideo, whole: Decoded, expected: list[int]) -> None:
    """The frames of the video's segments are the expected ones of a full decode, by time and by picture."""
    jpegs = [jpeg for segment in video.segments for jpeg in decode_segment(request(video, segment))]
    times = [Fraction(value, 10**9) for value in video.timestamps_ns]
    assert len(times) == len(expected) == len(jpegs)
    assert all(abs(time - whole.times[index]) < Fraction(1, 10**6) for time, index in zip(times, expected, strict=True))
    for jpeg, index in zip(jpegs, expected, strict=True):
        picture = np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)
        errors = np.abs(picture[None] - whole.frames_NHW3.astype(np.int16)).mean(axis=(1, 2, 3))
        assert errors[index] == errors.min() and errors[index] < 10, (index, errors.round(1))


@pytest.mark.parametrize("name", ZOO)
def test_keyframes_are_those_that_the_decoder_marks(name: str, tmp_path: Path) -> None:
    file_name, make = ZOO[name]
    path = make(tmp_path / file_name)
    video = plan(path, FrameSampling(policy="keyframes"))
    whole = decode_all(path, video.width, video.height)
    with av.open(str(path), options={"fflags": "+genpts"}) as container:
        is_key = [frame.key_frame for frame in container.decode(container.streams[video.stream_index])]
    assert len(is_key) == len(whole.times)
    check_frames(video, whole, [index for index, key in enumerate(is_key) if key] or [0])


@pytest.mark.parametrize("name", ZOO)
def test_segments_equal_one_sequential_pass(name: str, tmp_path: Path) -> None:
    file_name, make = ZOO[name]
    video = plan(make(tmp_path / file_name))
    assert len(video.segments) > 1 or name in ONE_SEGMENT, name
    check_one_pass(video)


def check_one_pass(video: PlannedVideo) -> list[bytes]:
    """The segments give the bytes of one sequential pass; returns them."""
    parts = [jpeg for segment in video.segments for jpeg in decode_segment(request(video, segment))]
    every = tuple(pts for segment in video.segments for pts in segment.target_pts)
    first = video.segments[0]
    whole = Segment(name="v.0", key_pts=first.key_pts, key_dts=first.key_dts, target_pts=every, cost_s=0)
    assert parts == decode_sequentially(request(video, whole))
    return parts


def test_anamorphic_and_rotated_frames_are_stored_as_seen(tmp_path: Path) -> None:
    wide = plan(make_video(tmp_path / "wide.mp4", filters="setsar=4/3"))
    assert (wide.width, wide.height) == (128, 64)
    tall = plan(rotated(90)(tmp_path / "tall.mp4"))
    assert (tall.width, tall.height) == (56, 96)


def test_sound_is_seen(tmp_path: Path) -> None:
    silent = make_video(tmp_path / "silent.mp4")
    assert probe_video(str(silent)).has_audio is False
    loud = make_video(tmp_path / "loud.mp4", audio=True, acodec="aac")
    assert probe_video(str(loud)).has_audio is True
