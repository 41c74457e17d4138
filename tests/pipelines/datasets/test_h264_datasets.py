"""Datasets whose frames are H.264, looked after by the same tools as those of JPEG files."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.datasets.duplicates import find_duplicates
from pipelines.datasets.frame_access import FrameAccess, read_frame
from pipelines.datasets.preview import preview
from pipelines.datasets.verify import verify
from pipelines.evaluation.answering import video_pieces
from pipelines.evaluation.decoding import stored_pixels
from pipelines.evaluation.questions import read_sample
from pipelines.ingest.config import FrameStorage, IngestConfig
from pipelines.ingest.h264 import write_mp4
from pipelines.ingest.pack import TarWriter
from pipelines.manifest_io import read_manifest, write_manifest
from pipelines.shard_index import format_index
from pipelines.storage import open_storage
from tests.pipelines.datasets.test_frame_access import CountingStorage
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.packing import ingest_here
from vamba.data.frames import FrameProcessing, frames_to_patches
from vamba.data.sample import Sample
from vamba.data.sampling import FrameSampling
from vamba.data.stored_frames import stored_frames


def h264_config(out: Path) -> IngestConfig:
    storage = FrameStorage(store="h264")
    return IngestConfig(sources=("-",), out=str(out), sampling=FrameSampling(fps=5), frames=storage)


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    plain = {"size": "256x144", "fps": 5}
    return [
        make_video(folder / "clip.mp4", seconds=12, **plain),  # type: ignore[arg-type]
        make_video(folder / "copy.mp4", seconds=12, crf=36, **plain),  # type: ignore[arg-type]
        make_video(folder / "other.mp4", seconds=6, filters="rotate=2,hue=h=90", **plain),  # type: ignore[arg-type]
    ]


@pytest.fixture
def data(videos: list[Path], tmp_path: Path) -> Path:
    ingest_here(videos, h264_config(tmp_path / "data"))
    return tmp_path / "data"


def samples_of(data: Path) -> list[Sample]:
    return [read_sample(open_storage(data), row) for row in read_manifest(data).samples]


def test_a_clean_dataset_is_clean_and_a_changed_byte_is_found(data: Path) -> None:
    for decode in (False, True):
        found = verify(str(data), decode=decode)
        assert found.clean and (found.num_samples, found.num_frames) == (3, 150), found.findings
    path = data / "shards" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert "sha256" in {item.rule for item in verify(str(data)).findings}


def rewritten(data: Path, change: Callable[[Sample], Sample]) -> None:
    """The dataset with its first sample changed, and rows, index and digests that fit it."""
    manifest = read_manifest(data)
    first, *others = samples_of(data)
    buffer = io.BytesIO()
    writer = TarWriter(buffer)
    rows, index = [], []
    for row, sample in zip(manifest.samples, [change(first), *others], strict=True):
        begin = writer.size_bytes
        index.append([writer.add(name, content) for name, content in sample.to_members()])
        rows.append(replace(row, offset_bytes=begin, size_bytes=writer.size_bytes - begin))
    sha256, text = writer.finish(), format_index(index)
    (data / "shards" / "shard-000000.tar").write_bytes(buffer.getvalue())
    (data / "shards" / "shard-000000.idx").write_bytes(text)
    (shard,) = manifest.shards
    shard = replace(shard, size_bytes=writer.size_bytes, sha256=sha256, index_sha256=hashlib.sha256(text).hexdigest())
    write_manifest(data, replace(manifest, shards=(shard,), samples=tuple(rows)))


def test_a_stream_of_other_frames_or_times_is_found(data: Path, tmp_path: Path) -> None:
    whole = samples_of(data)[0]
    other = samples_of(data)[2]
    times = whole.timestamps_ns
    path = tmp_path / "late.mp4"
    with tarfile.open(data / "shards" / "shard-000000.tar") as tar:
        assert tar.getnames() == [f"{name}.{kind}" for name in ("clip", "copy", "other") for kind in ("json", "mp4")]
    units = units_of(whole.video)
    write_mp4(path, units, [time + 100_000 for time in times], whole.duration_ns)
    late = path.read_bytes()
    for video, message in (
        (other.video, "has 30 frames, not 60"),
        (late, "has frame 0 at 0.000100 s, not at 0.000000 s"),
        (whole.video[: len(whole.video) // 2], "is not a readable stream"),
        (b"nothing", "is not a readable stream"),
    ):
        rewritten(data, lambda sample, video=video: replace(sample, video=video))  # type: ignore[misc]
        (finding,) = verify(str(data)).findings
        assert (finding.sample, finding.rule) == ("clip", "h264") and message in finding.message
    rewritten(data, lambda sample: replace(sample, video=whole.video))
    assert verify(str(data), decode=True).clean


def test_damage_inside_the_stream_is_found_by_decoding(data: Path) -> None:
    def scramble(sample: Sample) -> Sample:
        video = bytearray(sample.video)
        start = video.index(b"mdat") + 900
        video[start : start + 400] = bytes(reversed(video[start : start + 400]))
        return replace(sample, video=bytes(video))

    rewritten(data, scramble)
    assert {(item.sample, item.rule) for item in verify(str(data), decode=True).findings} == {("clip", "h264")}


def units_of(video: bytes) -> list[bytes]:
    """The access units of a stored stream, as an encoder gave them."""
    import av
    from av.bitstream import BitStreamFilterContext

    with av.open(io.BytesIO(video)) as container:
        stream = container.streams.video[0]
        convert = BitStreamFilterContext("h264_mp4toannexb", stream)
        return [bytes(out) for packet in container.demux(stream) if packet.size for out in convert.filter(packet)]


def test_single_frames_are_read_without_the_rest_of_the_stream(tmp_path: Path) -> None:
    grain = make_video(tmp_path / "grain.mp4", seconds=12, fps=5, size="256x144", filters="noise=alls=80:allf=t")
    data = tmp_path / "data"
    (row,) = ingest_here([grain], h264_config(data)).samples
    (sample,) = samples_of(data)
    whole = stored_frames(sample).decode(range(sample.num_frames))
    storage = CountingStorage(data)
    _, pictures = FrameAccess(storage).read_frames(row, [41])
    np.testing.assert_array_equal(pictures[0], whole[41])
    assert len(sample.video) > 1_000_000 and storage.num_bytes < len(sample.video) / 3
    np.testing.assert_array_equal(read_frame(str(data), "grain", 7), whole[7])


def test_previews_and_duplicates(data: Path) -> None:
    page = preview(str(data), num_frames=3)
    assert page.count("<article") == 3 and page.count("data:image/jpeg") == 9 and "0:00:10.0" in page
    found = find_duplicates(str(data), near=True)
    assert found.near is not None and not found.near.unread
    assert [[item.id for item in group.samples] for group in found.near.groups] == [["clip", "copy"]]


def test_evaluation_and_reports_see_the_frames(data: Path) -> None:
    from jobs.report_parts.contact_sheet import contact_sheet

    sample = samples_of(data)[0]
    frames = stored_frames(sample)
    processing = FrameProcessing()
    pieces = [np.asarray(patches) for patches, _ in video_pieces(stored_pixels(frames), processing)]
    whole, _ = frames_to_patches(frames.decode(range(len(frames))), processing)
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    sheet = contact_sheet(str(data), video="clip", num_thumbnails=5)
    assert sheet is not None and (sheet.num_frames, len(sheet.thumbnails)) == (60, 5)
