"""Far-apart targets are sought instead of read to, by the written rule; the frames stay the same, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipelines.ingest import decode
from pipelines.ingest.decode import decode_segment, decode_sequentially
from pipelines.ingest.probe import probe_video
from pipelines.ingest.segments import Reading, cut_segments
from pipelines.ingest.types import DecodeRequest
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.probed_requests import requests_for
from tests.pipelines.ingest.test_plan import make_probe

X265 = "log-level=error:keyint=12:min-keyint=12:bframes=3"
FILMS: dict[str, tuple[str, dict[str, Any]]] = {
    "mp4": ("a.mp4", {"bf": 2, "audio": True, "acodec": "aac"}),
    "mkv": ("a.mkv", {"bf": 2}),
    "webm": ("a.webm", {"vcodec": "libvpx-vp9", "deadline": "realtime"}),
    "avi": ("a.avi", {"bf": 0}),
    "ts": ("a.ts", {"bf": 2}),
    "open-gop-mp4": ("a.mp4", {"x264-params": "open-gop=1:keyint=10:bframes=3:b-pyramid=normal:scenecut=0"}),
    "open-gop-ts": ("a.ts", {"x264-params": "open-gop=1:keyint=10:bframes=3:scenecut=0"}),
    "hevc-open-gop-mkv": ("a.mkv", {"vcodec": "libx265", "x265-params": X265}),
    "mpeg2-ts": ("a.ts", {"vcodec": "mpeg2video", "bf": 2, "r": 25}),
    "flv": ("a.flv", {"bf": 2}),
}
ALWAYS = Reading(packet_s=1e-6, min_gap_packets=-1)
NEVER = Reading(packet_s=1e-6, min_gap_packets=float("inf"))


def request_of(path: Path, reading: Reading, stride: int = 17) -> DecodeRequest:
    """One segment with every `stride`-th frame of a film."""
    probe = probe_video(str(path))
    targets = np.unique(probe.pts[probe.is_shown])[::stride]
    segments = cut_segments("v", probe, targets, probe.width * probe.height, 1e9, reading)
    (request,) = requests_for(path, probe, segments)
    return request


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Times of the packets that are read."""
    seen: list[int] = []
    plain = decode._video_packets

    def watched(container: Any, stream: Any) -> Iterator[Any]:
        for packet in plain(container, stream):
            seen.append(packet.pts)
            yield packet

    monkeypatch.setattr(decode, "_video_packets", watched)
    return seen


@pytest.mark.parametrize("name", FILMS)
def test_the_frames_are_the_same_with_seeks_and_without(name: str, tmp_path: Path) -> None:
    file_name, options = FILMS[name]
    path = make_video(tmp_path / file_name, seconds=8, **{"g": 10, **options})
    seeking, reading_on = request_of(path, ALWAYS), request_of(path, NEVER)
    assert len(seeking.seeks) >= 4 and not reading_on.seeks
    frames = decode_segment(seeking)
    assert frames == decode_segment(reading_on) == decode_sequentially(reading_on)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_seek_reads_only_the_gops_that_hold_targets(name: str, tmp_path: Path, reads: list[int]) -> None:
    path = make_video(tmp_path / name, seconds=16, g=10, bf=0)
    decode_segment(request_of(path, ALWAYS, stride=41))
    assert len(reads) == 4 + (0 + 1 + 2 + 3)  # four targets, each some frames behind its keyframe
    reads.clear()
    decode_segment(request_of(path, NEVER, stride=41))
    assert len(reads) == 3 * 41 + 1


@pytest.mark.parametrize("shift", [-(10**9), 10**9])
def test_where_a_seek_does_not_find_the_keyframe_the_file_is_read_from_its_start(shift: int, tmp_path: Path) -> None:
    path = make_video(tmp_path / "a.ts", seconds=8, g=10, bf=2)
    request = request_of(path, ALWAYS)
    lost = replace(request, seeks=tuple((pts, dts + shift) for pts, dts in request.seeks))
    assert decode_segment(lost) == decode_segment(request)


def gaps_jumped(container: str, num_packets: int, size_bytes: int = 10**6, *, is_remote: bool = False) -> bool:
    """Whether a gap of so many packets is jumped over, in a file of 1,000 packets."""
    probe = make_probe(1000, gop=1, container=container)
    reading = Reading.of(probe, size_bytes, is_remote=is_remote)
    targets = probe.pts[[0, num_packets + 1]]
    (segment,) = cut_segments("v", probe, targets, 640 * 360, 1e9, reading)
    return bool(segment.seeks)


def test_the_rule_counts_packets_and_for_remote_sources_bytes() -> None:
    mp4 = "mov,mp4,m4a,3gp,3g2,mj2"
    assert not gaps_jumped(mp4, 64) and gaps_jumped(mp4, 65)
    assert not gaps_jumped("mpegts", 128) and gaps_jumped("mpegts", 129)
    assert not gaps_jumped("flv", 900)
    # 100 kB a packet: five megabytes are 50 packets. At 10 kB they are 500.
    assert gaps_jumped(mp4, 65, 10**8, is_remote=True)
    assert not gaps_jumped(mp4, 500, 10**7, is_remote=True) and gaps_jumped(mp4, 501, 10**7, is_remote=True)


def test_a_gap_costs_what_is_read_or_at_most_a_seek() -> None:
    probe = make_probe(10_000, gop=100, container="mpegts")

    def cost_s(reading: Reading) -> float:
        (segment,) = cut_segments("v", probe, probe.pts[[0, 9900]], 1, 1e9, reading)
        return segment.cost_s

    assert cost_s(Reading(packet_s=1e-3, min_gap_packets=100)) == pytest.approx(
        cost_s(Reading(packet_s=1e-3, min_gap_packets=float("inf"))) - 9799 * 1e-3
    )
