"""AVI keeps no presentation times: with B-frames they are counted, and are those that an independent decoder counts."""

from __future__ import annotations

import io
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.probe import probe_video
from pipelines.ingest.types import IngestError
from tests.pipelines.ingest.in_process import ingested, sample_of, source
from tests.pipelines.ingest.media import decode_all, make_video
from tests.pipelines.ingest.test_zoo import FPS, expected_indices
from vamba.data.sampling import FrameSampling

START_OF_PICTURE = b"\x00\x00\x01\xb6"
EMPTY_PICTURE = START_OF_PICTURE + b"\x50\x9f"  # a P picture at a rate of 10, not coded: "as before"
PACKED_MARK = b"\x00\x00\x01\xb2DivX503b1393p"
B_PICTURE = 2


def h264(**options: Any) -> Callable[[Path], Path]:
    return lambda path: make_video(path, **options)


def mpeg4(path: Path) -> Path:
    return make_video(path, vcodec="mpeg4", bf=2)


def packed(path: Path, num_b_frames: int = 1) -> Path:
    """MPEG-4 as DivX wrote it: a B picture shares the chunk of the one it follows, an empty chunk keeps the count."""
    plain = make_video(path.with_name("plain.avi"), vcodec="mpeg4", bf=num_b_frames)
    with av.open(str(plain)) as container:
        stream = container.streams.video[0]
        pictures = [bytes(packet) for packet in container.demux(stream) if packet.size]
        chunks: list[bytes] = []
        for picture in pictures:
            kind = picture[picture.index(START_OF_PICTURE) + 4] >> 6
            if kind != B_PICTURE:
                if chunks and chunks[-1].count(START_OF_PICTURE) > 1:
                    chunks.append(EMPTY_PICTURE)
                chunks.append(picture)
            else:
                chunks[-1] += picture
        chunks += [EMPTY_PICTURE] * (len(pictures) - len(chunks))
        start = chunks[0].index(START_OF_PICTURE)
        chunks[0] = chunks[0][:start] + PACKED_MARK + chunks[0][start:]
        with av.open(str(path), "w") as output:
            copy = output.add_stream_from_template(stream)
            for number, chunk in enumerate(chunks):
                packet = av.Packet(chunk)
                packet.stream, packet.time_base = copy, Fraction(1, 10)
                packet.pts = packet.dts = number
                packet.is_keyframe = number == 0
                output.mux(packet)
    return path


OPEN_GOPS = {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal:scenecut=0"}
COUNTED: dict[str, Callable[[Path], Path]] = {
    "h264": h264(bf=3),
    "h264-odd-rate": h264(bf=2, fps="30000/1001"),
    "h264-open-gops": h264(**OPEN_GOPS),
    "h264-late-b-frames": h264(seconds=8, bf=2, force_key_frames="expr:lt(t,4)"),
    "mpeg4-packed": packed,
}


@pytest.mark.parametrize("name", [*COUNTED, "mpeg4"])
def test_frames_are_those_on_screen(name: str, tmp_path: Path) -> None:
    film = COUNTED.get(name, mpeg4)(tmp_path / "a.avi")
    assert probe_video(str(film)).is_counted == (name in COUNTED)
    settings: dict[str, Any] = {"sampling": FrameSampling(fps=FPS), "segment_cost_s": 1e-9}
    (commit,), failures = ingested([source(film, "video")], tmp_path / "out", **settings)
    assert not failures
    sample = sample_of(commit.samples[0], tmp_path / "out")
    assert sample.probe.get("times") == ("counted" if name in COUNTED else None)
    whole = decode_all(film, sample.width, sample.height)
    expected = expected_indices(whole)
    times = [Fraction(value, 10**9) for value in sample.timestamps_ns]
    assert len(times) == len(expected)
    for time, frame, index in zip(times, sample.frames, expected, strict=True):
        assert abs(time - whole.times[index]) < Fraction(1, 10**6)
        picture = np.asarray(Image.open(io.BytesIO(frame)), np.int16)
        errors = np.abs(picture[None] - whole.frames_NHW3.astype(np.int16)).mean(axis=(1, 2, 3))
        assert errors[index] == errors.min() and errors[index] < 10, (index, errors.round(1))


def test_a_film_that_loses_a_frame_in_decoding_is_a_failure(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.avi", bf=2, g=8)
    data = bytearray(film.read_bytes())
    start = len(data) // 2
    data[start : start + 1500] = bytes(1500)
    film.write_bytes(data)
    commits, failures = ingested([source(film, "video")], tmp_path / "out", partial=True)
    assert not any(commit.samples for commit in commits)
    assert [failure.error_class for failure in failures] == ["corrupt"]


GAP = {"filters": "setpts='if(lt(N,10),N,N+5)/(10*TB)'", "fps_mode": "passthrough"}


@pytest.mark.parametrize("options", [{"bf": 2}, {"bf": 0}])
def test_a_film_that_leaves_ticks_out_has_no_times(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(IngestError) as error:
        probe_video(str(make_video(tmp_path / "a.avi", **GAP, **options)))
    assert error.value.error_class == "no_timestamps" and "re-encode" in error.value.message


def test_unless_its_ticks_are_its_times(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.avi", vcodec="mpeg4", **GAP)
    probe = probe_video(str(film))
    assert [Fraction(pts - int(probe.pts[0]), 10) for pts in probe.pts.tolist()] == decode_all(film, 96, 64).times


def test_keyframes_of_a_counted_film_have_no_times(tmp_path: Path) -> None:
    film = make_video(tmp_path / "a.avi", bf=2)
    _, failures = ingested([source(film, "video")], tmp_path / "out", sampling=FrameSampling(policy="keyframes"))
    assert [failure.error_class for failure in failures] == ["no_timestamps"]


def test_the_codec_is_named_for_what_it_is_not_for_its_decoder(tmp_path: Path) -> None:
    assert probe_video(str(make_video(tmp_path / "a.mp4", seconds=1, vcodec="libsvtav1", preset=12))).codec == "av1"
