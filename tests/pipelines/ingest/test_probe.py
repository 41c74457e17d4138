"""Files that are no whole video: each gets a stable class and a message that says what it really is."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import ffmpeg
import pytest

from pipelines.ffmpeg import ffmpeg_binary
from pipelines.ingest.probe import probe_video
from pipelines.ingest.types import IngestError
from tests.pipelines.ingest.media import make_video


def picture(kind: str) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        options = {"vframes": 1, "f": "image2", "update": 1, "vcodec": kind, "pix_fmt": "rgb24"}
        if kind == "mjpeg":
            options["pix_fmt"] = "yuvj420p"
        ffmpeg.input("testsrc2=size=64x48", f="lavfi").output(str(path), **options).run(cmd=ffmpeg_binary(), quiet=True)

    return make


def cut(share: float, **options: object) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        make_video(path, **options)  # type: ignore[arg-type]
        os.truncate(path, int(path.stat().st_size * share))

    return make


def without_index(path: Path) -> None:
    make_video(path)
    data = path.read_bytes()
    path.write_bytes(data[: data.index(b"moov") - 4])


def sound_only(path: Path) -> None:
    ffmpeg.input("sine=duration=1", f="lavfi").output(str(path), acodec="aac").run(cmd=ffmpeg_binary(), quiet=True)


BAD_FILES: dict[str, tuple[str, Callable[[Path], object], str, str]] = {
    "empty": ("a.mp4", lambda path: path.write_bytes(b""), "empty", "no bytes"),
    "zeros": ("a.mp4", lambda path: path.write_bytes(bytes(9000)), "not_a_video", "zero bytes"),
    "text": ("a.mp4", lambda path: path.write_text("notes, ümlaut\n" * 700), "not_a_video", "text"),
    "html": ("a.mp4", lambda path: path.write_text("<!DOCTYPE html><p>404"), "not_a_video", "HTML"),
    "png": ("a.mp4", picture("png"), "not_a_video", "PNG"),
    "jpeg": ("a.mp4", picture("mjpeg"), "not_a_video", "JPEG"),
    "noise": ("a.mp4", lambda path: path.write_bytes(random.Random(7).randbytes(5000)), "corrupt", "ffmpeg"),
    "sound": ("a.mp4", sound_only, "no_video_stream", "sound"),
    "index-missing": ("a.mp4", cut(0.98), "truncated", "cut"),
    "no-index": ("a.mp4", without_index, "truncated", "index"),
    "media-cut": ("a.mp4", cut(0.6, movflags="faststart"), "truncated", "cut"),
    "fragment-cut": ("a.mp4", cut(0.6, movflags="frag_keyframe+empty_moov"), "truncated", "cut"),
    "mkv-cut": ("a.mkv", cut(0.5, seconds=8), "truncated", "cut"),
    "avi-cut": ("a.avi", cut(0.5, seconds=8, vcodec="mpeg4"), "truncated", "cut"),
    "missing": ("a.mp4", lambda path: None, "not_found", "no file"),
    "folder": ("a.mp4", lambda path: path.mkdir(), "not_a_video", "folder"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file_is_named_for_what_it_is(name: str, tmp_path: Path) -> None:
    file_name, make, error_class, word = BAD_FILES[name]
    path = tmp_path / file_name
    make(path)
    with pytest.raises(IngestError) as error:
        probe_video(str(path))
    assert error.value.error_class == error_class, error.value.message
    assert word in error.value.message


def test_permission_denied_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", refuse)  # file modes do not bind the root user that tests may run as
    with pytest.raises(IngestError) as error:
        probe_video(str(path))
    assert error.value.error_class == "permission_denied"


def test_sound_that_outlasts_the_picture_is_no_truncation(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    picture_input = ffmpeg.input("testsrc2=size=64x48:rate=5:duration=2", f="lavfi")
    sound = ffmpeg.input("sine=duration=8", f="lavfi")
    ffmpeg.output(picture_input, sound, str(path), vcodec="libx264", acodec="aac").run(cmd=ffmpeg_binary(), quiet=True)
    assert len(probe_video(str(path)).pts) == 10


def test_cover_art_is_not_the_video(tmp_path: Path) -> None:
    cover, song = tmp_path / "cover.jpg", tmp_path / "song.m4a"
    picture("mjpeg")(cover)
    sound_only(song)
    output = tmp_path / "a.mp4"
    streams = [ffmpeg.input(str(song))["a"], ffmpeg.input(str(cover))["v"]]
    options = {"c": "copy", "disposition:v:0": "attached_pic"}
    ffmpeg.output(*streams, str(output), **options).run(cmd=ffmpeg_binary(), quiet=True)
    with pytest.raises(IngestError) as error:
        probe_video(str(output))
    assert error.value.error_class == "no_video_stream" and "cover" in error.value.message
