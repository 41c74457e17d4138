"""However a film is cut into segments, its frames, and so its shards, have the same bytes as a single pass gives.

Every frame is a target here, so that whatever stands at the border of two segments is asked of one of them: pictures
that follow a keyframe in the stream and are shown before it, references that are never shown, frames of odd durations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest

from pipelines.ingest import decode
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.decode import decode_segment, decode_sequentially
from pipelines.ingest.job import run_ingest
from pipelines.ingest.probe import probe_video
from pipelines.ingest.progress import Silent
from pipelines.ingest.segments import Reading, cut_segments
from pipelines.ingest.types import DecodeRequest
from pipelines.manifest_io import read_manifest
from pipelines.ray_session import ray_session
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.probed_requests import requests_for
from tests.pipelines.ingest.test_zoo import ZOO, vfr
from vamba.data.sampling import FrameSampling


def film(name: str, **options: Any) -> tuple[str, Callable[[Path], Path]]:
    return name, lambda path: make_video(path, **{"seconds": 5, "g": 10, **options})


OPEN_GOP = "open-gop=1:keyint=10:bframes=3:b-pyramid=normal:scenecut=0"
HEVC = "log-level=error:keyint=10:min-keyint=10:bframes=4:scenecut=0"
FILMS = {
    "h264-closed": film("a.mp4", bf=3),
    "h264-closed-mkv": film("a.mkv", bf=3),
    "h264-open": film("a.mp4", **{"x264-params": OPEN_GOP}),
    "h264-open-mkv": film("a.mkv", **{"x264-params": OPEN_GOP}),
    "h264-open-ts": film("a.ts", **{"x264-params": OPEN_GOP}),
    "h264-interlaced": film("a.mp4", flags="+ildct+ilme", **{"x264-params": "tff=1:keyint=10:bframes=2"}),
    "hevc-open": film("a.mp4", vcodec="libx265", **{"x265-params": HEVC}),
    "hevc-open-mkv": film("a.mkv", vcodec="libx265", **{"x265-params": HEVC}),
    "hevc-open-ts": film("a.ts", vcodec="libx265", **{"x265-params": HEVC}),
    "hevc-closed-ten-bit": film(
        "a.mp4", vcodec="libx265", pix_fmt="yuv420p10le", **{"x265-params": HEVC + ":no-open-gop=1"}
    ),
    "vp9-alternate-references": film(
        "a.webm", vcodec="libvpx-vp9", deadline="good", **{"auto-alt-ref": 1, "lag-in-frames": 16, "cpu-used": 5}
    ),
    "av1": film("a.mp4", vcodec="libsvtav1", preset=12),
    "mpeg2-open-ts": film("a.ts", vcodec="mpeg2video", bf=2, r=25),
    "mpeg4": film("a.mp4", vcodec="mpeg4", bf=2),
    "prores": film("a.mov", vcodec="prores_ks", pix_fmt="yuv422p10le"),
    "vfr": ("a.mp4", vfr),
    "vfr-open-mkv": ("a.mkv", lambda path: vfr(path, **{"x264-params": OPEN_GOP})),
}


def requests(path: Path, segment_cost_s: float) -> list[DecodeRequest]:
    """One per segment of a film, which together ask for every frame."""
    probe = probe_video(str(path))
    targets = probe.pts[probe.is_shown].copy()
    targets.sort()
    reading = Reading.of(probe, path.stat().st_size, is_remote=False)
    segments = cut_segments("v", probe, targets, probe.width * probe.height, segment_cost_s, reading)
    return requests_for(path, probe, segments)


@pytest.mark.parametrize("name", FILMS)
def test_segments_give_the_bytes_of_a_single_pass(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_name, make = FILMS[name]
    path = make(tmp_path / file_name)
    (whole,) = requests(path, 1e9)
    expected = decode_sequentially(whole)
    retries: list[str] = []
    plain = decode._decode_runs

    def watched(request: DecodeRequest, *, thrifty: bool) -> dict[int, bytes]:
        retries.extend([] if thrifty else [name])
        return plain(request, thrifty=thrifty)

    monkeypatch.setattr(decode, "_decode_runs", watched)
    num_segments = []
    for segment_cost_s in (1e9, 2e-3, 1e-9):
        cut = requests(path, segment_cost_s)
        num_segments.append(len(cut))
        assert [jpeg for request in cut for jpeg in decode_segment(request)] == expected
    assert num_segments[0] == 1 and num_segments[-1] > 1
    assert not retries  # every segment was decoded at the first try, savings and all


def test_the_hevc_film_has_pictures_that_lean_on_the_segment_before(tmp_path: Path) -> None:
    """RASL pictures: they follow an open keyframe, are shown before it and refer to what is before it."""
    path = FILMS["hevc-open-ts"][1](tmp_path / "a.ts")
    with av.open(str(path)) as container:
        data = b"".join(bytes(packet) for packet in container.demux(video=0) if packet.size)
    kinds = {data[at + 3] >> 1 & 0x3F for at in range(len(data) - 3) if data[at : at + 3] == b"\0\0\1"}
    assert {8, 9} & kinds and 21 in kinds  # RASL_N or RASL_R, and CRA


def test_one_gop_of_many_frames_is_cut_so_that_no_segment_is_large(tmp_path: Path, monkeypatch: Any) -> None:
    from pipelines.ingest import segments

    path = make_video(tmp_path / "a.mp4", seconds=6, g=500, bf=2)
    (whole,) = requests(path, 1e9)
    monkeypatch.setattr(segments, "_MAX_SEGMENT_BYTES", 20 * 96 * 64 * segments.JPEG_BYTES_PER_PIXEL)
    cut = requests(path, 1e9)
    assert [len(request.target_pts) for request in cut] == [20, 20, 20]
    assert {request.key_pts for request in cut} == {whole.key_pts}
    assert [jpeg for request in cut for jpeg in decode_segment(request)] == decode_segment(whole)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_dataset_has_the_same_bytes_whole_and_in_small_segments(tmp_path: Path) -> None:
    films = tmp_path / "films"
    for name in ("h264-open", "hevc-open", "vp9-alternate-references", "mpeg2-open-ts", "vfr"):
        file_name, make = FILMS[name]
        make(films / name / file_name)
    ZOO["av1"][1](films / "av1" / "a.mp4")
    manifests = []
    with ray_session(None, 1):
        for segment_cost_s in (1e9, 1e-9):
            out = tmp_path / f"out-{segment_cost_s:g}"
            sampling = FrameSampling(fps=5)
            config = IngestConfig(sources=(str(films),), out=str(out), sampling=sampling, segment_cost_s=segment_cost_s)
            run_ingest(config, Silent())
            manifests.append(read_manifest(out))
    assert len(manifests[0].samples) == 6
    assert manifests[0] == manifests[1]
