"""What a sample's JSON says of its source, against PyAV and ffmpeg asked directly."""

from __future__ import annotations

import hashlib
import json
import tarfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from pipelines.ingest.config import IngestConfig
from pipelines.manifest_io import read_manifest
from tests.pipelines.ingest.media import decode_all, make_video, remux
from tests.pipelines.ingest.packing import TALK, ingest_here
from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.data.sampling import FrameSampling

HDR = {"vcodec": "libx265", "pix_fmt": "yuv420p10le", "color_trc": "smpte2084", "color_primaries": "bt2020"}
HDR |= {"colorspace": "bt2020nc", "x265-params": "log-level=error:pools=1"}
INTERLACED = {"vcodec": "mpeg2video", "flags": "+ilme+ildct", "filters": "tinterlace=interleave_top"}


def rotated(path: Path) -> Path:
    plain = make_video(path.with_name("upright.mp4"), seconds=4, audio=True, acodec="aac")
    return remux(plain, path, {"display_rotation": 90})


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("media")
    videos = [
        make_video(folder / "plain.mp4", seconds=5, fps="30000/1001", audio=True, acodec="aac"),
        rotated(folder / "turned.mp4"),
        make_video(folder / "hdr.mkv", seconds=2, filters="setparams=color_trc=smpte2084", **HDR),  # type: ignore[arg-type]
        make_video(folder / "woven.ts", seconds=4, fps=50, **INTERLACED),  # type: ignore[arg-type]
        make_video(folder / "late.webm", seconds=3, vcodec="libvpx-vp9", filters="setpts=PTS+2/TB"),
    ]
    out = folder / "data"
    ingest_here(videos, IngestConfig(sources=("-",), out=str(out), sampling=FrameSampling(fps=3)))
    found = {}
    for path in videos:
        with tarfile.open(out / "shards" / "shard-000000.tar") as tar:
            member = tar.extractfile(f"{path.stem}.json")
            assert member is not None
            found[path.stem] = (path, json.load(member))
    return found


def seen_by_pyav(path: Path) -> dict[str, Any]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frame = next(container.decode(stream))
        return {
            "container": container.format.name,
            "codec": stream.codec_context.name,
            "width": stream.codec_context.width,
            "height": stream.codec_context.height,
            "fps": str(stream.average_rate),
            "pixel_format": stream.codec_context.pix_fmt,
            "rotation": -frame.rotation % 360,
            "is_mirrored": False,
            "is_hdr": int(frame.color_trc) in (16, 18),
            "is_interlaced": frame.interlaced_frame,
            "has_audio": len(container.streams.audio) > 0,
            "pixel_aspect": "1",
            "size_bytes": path.stat().st_size,
        }


@pytest.mark.parametrize("name", ["plain", "turned", "hdr", "woven", "late"])
def test_the_json_tells_the_truth(documents: dict[str, tuple[Path, dict[str, Any]]], name: str) -> None:
    path, document = documents[name]
    row = next(row for row in read_manifest(path.parent / "data").samples if row.id == name)
    expected = seen_by_pyav(path)
    assert {key: document["probe"][key] for key in expected} == expected
    assert document["probe"]["num_frames"] == len(decode_all(path, 16, 16).times)
    assert (document["id"], document["source_uri"], document["media"]) == (name, str(path), "video")
    assert document["source_digest"] == "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    assert document["conversations"] == [TALK.to_json()]
    size = (document["width"], document["height"])
    assert size == ((64, 96) if name == "turned" else (96, 64)) == (row.width, row.height)
    decoded = decode_all(path, 16, 16)
    assert abs(document["duration_ns"] - decoded.end * 10**9) <= 1
    times = [time * 10**9 for time in decoded.times]
    shown = [max(time for time in times if time <= t) for t in targets(decoded.end)]
    assert document["timestamps_ns"] == [round(time) for time in dict.fromkeys(shown)]
    assert row.num_tokens == num_video_tokens(len(document["timestamps_ns"]), *size, FrameProcessing()) > 0


def targets(end: Fraction) -> list[Fraction]:
    step = Fraction(10**9, 3)
    return [k * step for k in range(1000) if k * step < end * 10**9]


def test_the_cases_are_what_they_claim_to_be(documents: dict[str, tuple[Path, dict[str, Any]]]) -> None:
    probes = {name: document["probe"] for name, (_, document) in documents.items()}
    assert {name for name, probe in probes.items() if probe["is_hdr"]} == {"hdr"}
    assert {name for name, probe in probes.items() if probe["is_interlaced"]} == {"woven"}
    assert {name: probe["rotation"] for name, probe in probes.items() if probe["rotation"]} == {"turned": 270}
    assert probes["plain"]["has_audio"] and probes["plain"]["fps"] == "30000/1001"
