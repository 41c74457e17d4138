"""Damage inside a stream: what the decoder notices fails the video, and what is not needed is not decoded."""

from __future__ import annotations

import io
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from pipelines.ingest.decode import decode_segment, decode_sequentially
from pipelines.ingest.types import IngestError
from tests.pipelines.ingest.media import decode_all, make_video
from tests.pipelines.ingest.test_zoo import plan, request


def test_flipped_bytes_are_an_error_in_both_ways_of_decoding(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=4, size="160x120", g=40)
    video = plan(path)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(byte ^ 0x5A for byte in data[middle : middle + 4000])
    path.write_bytes(data)
    for decode in (decode_segment, decode_sequentially):
        with pytest.raises(IngestError) as error:
            for segment in video.segments:
                decode(request(video, segment))
        assert error.value.error_class == "corrupt"


def test_the_tail_of_a_gop_is_not_decoded(tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.mp4", seconds=2, fps=20, g=40, bf=0, refs=1)
    video = plan(path)
    clean = decode_segment(request(video, video.segments[0]))
    last_target = request(video, video.segments[0]).target_pts[-1]
    data = bytearray(path.read_bytes())
    with av.open(str(path)) as container:
        tail = [packet for packet in container.demux(video=0) if packet.size and packet.pts > last_target]
        for packet in tail:
            assert packet.pos is not None
            data[packet.pos : packet.pos + packet.size] = bytes(packet.size)
    assert tail
    path.write_bytes(data)
    assert decode_segment(request(video, video.segments[0])) == clean


def test_recovery_points_are_no_place_to_start_and_the_sequential_way_takes_over(tmp_path: Path) -> None:
    """A film refreshed column by column marks pictures as keyframes that need the pictures before them."""
    path = make_video(tmp_path / "a.mp4", **{"x264-params": "intra-refresh=1:keyint=10:bframes=0"})
    video = plan(path)
    assert len(video.segments) > 1
    with pytest.raises(IngestError, match="do not decode cleanly"):
        decode_segment(request(video, video.segments[1]))
    whole = decode_all(path, video.width, video.height)
    for segment in video.segments:
        for pts, jpeg in zip(segment.target_pts, decode_sequentially(request(video, segment)), strict=True):
            index = whole.times.index(pts * video.time_base)
            picture = np.asarray(Image.open(io.BytesIO(jpeg)), np.int16)
            assert np.abs(picture - whole.frames_NHW3[index].astype(np.int16)).mean() < 10
