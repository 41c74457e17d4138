"""The index beside each shard, and single frames read through it."""

from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from pipelines.datasets.frame_access import FrameAccess, read_frame
from pipelines.datasets.verify import verify
from pipelines.ingest.config import IngestConfig
from pipelines.manifest_io import read_manifest
from pipelines.shard_index import parse_index
from pipelines.storage import LocalStorage, open_storage
from tests.pipelines.ingest.media import make_video
from tests.pipelines.ingest.packing import ingest_here, without_indexes
from vamba.data.manifest import Manifest
from vamba.data.sampling import FrameSampling


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("videos")
    return [make_video(folder / f"clip-{number}.mp4", seconds=3 + number) for number in range(3)]


@pytest.fixture
def data(videos: list[Path], tmp_path: Path) -> Path:
    out = tmp_path / "data"
    ingest_here(
        videos, IngestConfig(sources=("-",), out=str(out), target_shard_bytes=20_000, sampling=FrameSampling(fps=2))
    )
    return out


def members_of(path: Path) -> dict[str, tuple[int, bytes]]:
    """Name: (offset of the content, content), as Python's tarfile sees them."""
    with tarfile.open(path) as tar:
        return {info.name: (info.offset_data, tar.extractfile(info).read()) for info in tar}  # type: ignore[union-attr]


def read_as_dali_does(path: Path) -> list[list[tuple[str, int, int, str]]]:
    """(extension, offset, size, file name) of the components of each sample: tokens between blanks, a sample a line."""
    version, *lines = path.read_text().split("\n")
    assert version.split() == ["v1.2", str(len(lines) - 1)] and lines.pop() == ""
    samples = []
    for line in lines:
        fields = iter(line.split())
        samples.append([(ext, int(next(fields)), int(next(fields)), next(fields)) for ext in fields])
    return samples


def test_each_range_of_the_index_holds_the_bytes_of_its_member(data: Path) -> None:
    manifest = read_manifest(data)
    assert len(manifest.shards) > 1
    for shard in manifest.shards:
        path = data / "shards" / shard.name
        content, members = path.read_bytes(), members_of(path)
        index = parse_index(path.with_suffix(".idx").read_bytes())
        assert hashlib.sha256(path.with_suffix(".idx").read_bytes()).hexdigest() == shard.index_sha256
        assert [item.name for group in index.values() for item in group] == list(members)
        for item in (item for group in index.values() for item in group):
            own = content[item.offset_bytes : item.offset_bytes + item.size_bytes]
            assert (item.offset_bytes, own) == members[item.name]
        assert list(index) == [row.id for row in manifest.samples if row.shard == shard.name]


def test_the_index_is_what_dali_expects(data: Path) -> None:
    for path in sorted((data / "shards").glob("*.tar")):
        members = members_of(path)
        samples = read_as_dali_does(path.with_suffix(".idx"))
        assert [name for sample in samples for _, _, _, name in sample] == list(members)
        for sample in samples:
            assert [ext for ext, *_ in sample][:2] == ["json", "000000.jpg"]
            for ext, offset, size, name in sample:
                key, _, rest = name.partition(".")
                assert (ext, offset % 512, offset, size) == (rest, 0, members[name][0], len(members[name][1]))
                assert key == sample[0][3].removesuffix(".json")


class CountingStorage(LocalStorage):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.num_bytes = 0

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        self.num_bytes += length
        return super().read_range(path, offset, length)


@pytest.mark.parametrize("old", [False, True])
def test_single_frames_are_read_and_nothing_around_them(data: Path, old: bool) -> None:
    manifest = without_indexes(data) if old else read_manifest(data)
    for row in manifest.samples:
        members = members_of(data / "shards" / row.shard)
        storage = CountingStorage(data)
        document, (frame,) = FrameAccess(storage).read_frames(row, [3])
        assert document["id"] == row.id and frame == members[f"{row.id}.000003.jpg"][1]
        if not old:
            assert storage.num_bytes == len(frame) + len(members[f"{row.id}.json"][1])
    last = manifest.samples[-1]
    picture = read_frame(str(data), last.id, last.num_frames - 1)
    np.testing.assert_array_equal(picture, simplejpeg.decode_jpeg(list(members.values())[-1][1]))
    with pytest.raises(ValueError, match="has frames 0 to"):
        read_frame(str(data), last.id, last.num_frames)
    with pytest.raises(ValueError, match="vamba data ls"):
        read_frame(str(data), "nobody", 0)


def test_verify_checks_the_index(data: Path) -> None:
    assert verify(str(data)).clean
    manifest: Manifest = read_manifest(data)
    path = data / "shards" / manifest.shards[0].name.replace(".tar", ".idx")
    good = path.read_bytes()
    for damaged in (good[:-30], good.replace(b"v1.2", b"v9.9"), good.replace(b" 512 ", b" 513 "), b"", b"\xff"):
        path.write_bytes(damaged)
        assert {(item.shard, item.rule) for item in verify(str(data)).findings} == {(manifest.shards[0].name, "index")}
    path.unlink()
    assert [item.rule for item in verify(str(data)).findings] == ["index"]
    path.write_bytes(good)
    (data / "shards" / "shard-000099.idx").write_bytes(good)
    assert [item.rule for item in verify(str(data)).findings] == ["unlisted"]


def test_datasets_from_before_the_index_are_whole(data: Path) -> None:
    old = without_indexes(data)
    assert read_manifest(data) == old and verify(str(data)).clean
    # An index that another tool has made is fine where it is right, and a finding where it is not.
    path = data / "shards" / "shard-000000.idx"
    path.write_text("v1.2 1\njson 512 10 clip-0.json\n")
    assert [item.rule for item in verify(str(data)).findings] == ["index"]
    assert open_storage(data).exists("shards/shard-000000.idx")
