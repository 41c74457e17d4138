"""Interlaced film: the stored picture is the one at its timestamp, as the progressive film behind it shows it.

A film of 50 pictures a second is woven into 25 interlaced frames. Frame n is presented with picture 2n, whose lines
are its first field; the second field holds lines of picture 2n + 1, and must leave no trace.
"""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.deinterlace import deinterlace, is_interlaced
from pipelines.ingest.types import IngestError
from tests.pipelines.ingest.media import decode_all, make_video
from tests.pipelines.ingest.test_zoo import check_one_pass, plan

# A bar that moves four pixels from picture to picture; the same in every line, so that each field tells all of it.
BAR = "geq=lum='16+219*between(mod(X-4*N,96),0,23)':cb=128:cr=128"
WOVEN = {"fps": 50, "seconds": 2, "g": 12, "flags": "+ildct+ilme"}
BOTTOM_FIRST = {"x264-params": "bff=1"}

FILES: dict[str, tuple[str, dict[str, object]]] = {
    "h264-top-first": ("a.mp4", {"bf": 2}),
    "h264-bottom-first": ("a.mp4", {"bf": 2, **BOTTOM_FIRST}),
    "h264-open-gop": ("a.mkv", {"x264-params": "tff=1:open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}),
    "h264-transport-stream": ("a.ts", {"bf": 2}),
    "mpeg2-ts": ("a.ts", {"vcodec": "mpeg2video", "bf": 2, "q": 3}),
    "mpeg4": ("a.mp4", {"vcodec": "mpeg4", "q": 3}),
    "prores-10-bit": ("a.mov", {"vcodec": "prores_ks", "pix_fmt": "yuv422p10le"}),
    "ffv1-444": ("a.mkv", {"vcodec": "ffv1", "pix_fmt": "yuv444p"}),
}


def woven(name: str, folder: Path) -> Path:
    file_name, options = FILES[name]
    order = "bff" if "bottom" in name else "tff"
    return make_video(folder / file_name, filters=f"{BAR},interlace=scan={order}", **{**WOVEN, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FILES)
def test_the_picture_is_that_of_its_timestamp(name: str, tmp_path: Path) -> None:
    video = plan(woven(name, tmp_path))
    progressive = make_video(tmp_path / "p.mkv", fps=50, seconds=2, filters=BAR, vcodec="ffv1", g=1)
    pictures_NHW3 = decode_all(progressive, video.width, video.height).frames_NHW3.astype(np.int16)
    for jpeg, timestamp_ns in zip(check_one_pass(video), video.timestamps_ns, strict=True):
        stored = np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)
        errors = np.abs(stored[None] - pictures_NHW3).mean(axis=(1, 2, 3))
        index = round(timestamp_ns * 50 / 10**9)
        assert index % 2 == 0 and errors[index] == errors.min() and errors[index] < 3, (index, errors[index])
        combing = np.abs(np.diff(stored[:, :, 0], axis=0)).mean()
        assert combing < 3, combing


def test_a_progressive_film_is_left_alone(tmp_path: Path) -> None:
    for name, options in {"a.mp4": {}, "a.mov": {"vcodec": "prores_ks", "pix_fmt": "yuv422p10le"}}.items():
        with av.open(str(make_video(tmp_path / name, seconds=0.5, **options))) as container:  # type: ignore[arg-type]
            assert not any(is_interlaced(frame, "h264") for frame in container.decode(video=0))


def test_the_second_field_becomes_the_cubic_between_its_neighbours(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mkv", seconds=0.2, fps=50, filters="interlace", vcodec="ffv1", flags="+ildct+ilme")
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
    assert is_interlaced(frame, "ffv1") and not is_interlaced(frame, "hevc")  # HEVC's pictures are single fields
    before = np.frombuffer(frame.planes[0], np.uint8).reshape(64, -1)[:, :96].astype(int)
    pts = frame.pts
    after = np.frombuffer(deinterlace(frame).planes[0], np.uint8).reshape(64, -1)[:, :96].astype(int)
    assert frame.pts == pts and (after[::2] == before[::2]).all()
    for row in range(3, 61, 2):
        near, far = before[row - 1] + before[row + 1], before[row - 3] + before[row + 3]
        assert (after[row] == np.clip((9 * near - far + 8) // 16, 0, 255)).all()


def test_what_cannot_be_deinterlaced_says_so(tmp_path: Path) -> None:
    frame = av.VideoFrame(16, 16, "gray16be")
    with pytest.raises(IngestError, match="gray16be cannot be deinterlaced; re-encode") as error:
        deinterlace(frame)
    assert error.value.error_class == "unsupported"
