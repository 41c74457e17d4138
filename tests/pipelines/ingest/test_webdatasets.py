"""Tars of samples: grouped as webdataset groups them, found by headers alone."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from webdataset.tariterators import group_by_keys

from pipelines.ingest import webdatasets
from pipelines.ingest.kinds import media_of
from pipelines.ingest.sources import find_sources
from pipelines.ingest.types import VideoSource
from pipelines.ingest.webdatasets import tar_samples
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

TURNS = [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A"}]


def tar_bytes(members: list[tuple[str, bytes]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members))
    return path


def videos(*sources: Path | str) -> list[VideoSource]:
    with find_sources(list(map(str, sources))) as found:
        return list(found.videos())


NAMES = st.from_regex(r"(d/|d\.e/|)[ab_](\.[ab])?\.(mp4|JPG|json|txt|cls|seg\.png)", fullmatch=True) | st.sampled_from(
    ["__meta__/a.mp4", "__x__", "noending", ".hidden.mp4", "d/.mp4"]
)


@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, max_size=12, unique=True))
def test_samples_are_those_of_webdataset(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    path = tmp_path_factory.mktemp("tar") / "s.tar"
    write_tar(path, [(name, b"{}" if name.endswith("json") else name.encode()) for name in names])
    with open(path, "rb") as stream:
        files = ({**item, "__url__": ""} for item in _webdataset_files(stream))
        expected = [
            {name for name in sample if media_of(f"x.{name}") is not None}
            for sample in group_by_keys(files, handler=_raise)
        ]
    found = list(tar_samples(str(path)))
    assert [sample is not None for sample in found] == [bool(media) for media in expected]
    data = path.read_bytes()
    for sample, media in zip(found, expected, strict=True):
        if sample is not None and sample.problem is None:
            key_suffix = sample.member.rpartition("/")[2].partition(".")[2].lower()
            assert key_suffix in media
            content = data[sample.offset_bytes : sample.offset_bytes + sample.size_bytes]
            assert content == sample.member.encode()


def _webdataset_files(stream: io.BufferedReader) -> Any:
    from webdataset.tariterators import tar_file_iterator

    return tar_file_iterator(stream, handler=_raise)


def _raise(error: Exception) -> bool:
    raise error


def test_media_text_and_place_of_a_sample(tmp_path: Path) -> None:
    row = {"conversations": TURNS, "split": "test", "id": "q7", "url": "https://elsewhere/x.mp4"}
    path = write_tar(
        tmp_path / "films-000.tar",
        [
            ("Clip 1.json", json.dumps(row).encode()),
            ("Clip 1.mp4", b"video-1"),
            ("Clip 1.jpg", b"thumbnail"),
            ("p/2.png", b"image-2"),
            ("p/2.txt", "Ein Käfer.".encode()),
            ("3.webm", b"video-3"),
            ("3.txt", b" \n"),
            ("4.cls", b"0"),
        ],
    )
    with find_sources([str(path)]) as found:
        sources = {source.id: source for source in found.videos()}
        counts = found.counts
    assert set(sources) == {"films-000-clip-1", "films-000-p-2", "films-000-3"}
    assert (counts.num_videos, counts.num_images, counts.num_ignored_samples) == (2, 1, 1)
    one, two, three = sources["films-000-clip-1"], sources["films-000-p-2"], sources["films-000-3"]
    assert (one.uri, one.media, one.split, one.conversations[0].id) == (f"{path}#Clip 1.mp4", "video", "test", "q7")
    assert (two.media, two.conversations[0].turns[0].value) == ("image", "<image>\nDescribe this image in detail.")
    assert two.conversations[0].turns[1].value == "Ein Käfer." and three.conversations == ()
    data = path.read_bytes()
    for source, content in ((one, b"video-1"), (two, b"image-2"), (three, b"video-3")):
        place = source.location
        assert place.uri == str(path) and place.length_bytes is not None
        assert data[place.offset_bytes : place.offset_bytes + place.length_bytes] == content


def test_shards_by_braces_and_globs(tmp_path: Path) -> None:
    for number in range(12):
        write_tar(tmp_path / f"s-{number:03d}.tar", [("a.mp4", b"x"), ("b.mp4", b"y")])
    assert len(videos(f"{tmp_path}/s-{{000..011}}.tar")) == 24
    assert [source.id for source in videos(f"{tmp_path}/s-{{000..001}}.tar")] == [
        "s-000-a", "s-000-b", "s-001-a", "s-001-b",
    ]  # fmt: skip
    assert len(videos(f"{tmp_path}/*.tar")) == 24
    with pytest.raises(ValueError, match=r"does not exist \(looked for .*s-012.tar"):
        videos(f"{tmp_path}/s-{{010..012}}.tar")


def test_what_cannot_be_used_is_a_failure_and_the_rest_is_found(tmp_path: Path) -> None:
    write_tar(
        tmp_path / "a.tar",
        [
            ("two.left.mp4", b"l"),
            ("two.right.mp4", b"r"),
            ("broken.mp4", b"b"),
            ("broken.json", b"{"),
            ("robot.mp4", b"b"),
            ("robot.json", json.dumps([{"from": "robot", "value": "x"}]).encode()),
            ("good.mp4", b"g"),
        ],
    )
    whole = tar_bytes([("first.mp4", bytes(3000)), ("second.mp4", bytes(3000))])
    (tmp_path / "cut.tar").write_bytes(whole[:5000])
    (tmp_path / "text.tar").write_text("no tar at all" * 100)
    (tmp_path / "empty.tar").write_bytes(b"")
    with find_sources([f"{tmp_path}/*.tar"]) as found:
        problems = {item.source.id: item.problem for item in found.store.sources()}
    assert {name: problem.error_class for name, problem in problems.items() if problem is not None} == {
        "a-two-left": "unsupported",
        "a-broken": "bad_row",
        "a-robot": "bad_row",
        "cut": "bad_tar",
        "text": "bad_tar",
        "empty": "bad_tar",
    }
    assert {name for name, problem in problems.items() if problem is None} == {"a-good", "cut-first"}
    assert "a key of its own" in problems["a-two-left"].message  # type: ignore[union-attr]
    assert "'from' is 'robot'" in problems["a-robot"].message  # type: ignore[union-attr]


def test_a_compressed_tar_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "s.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="compressed tar.*unpack it"):
        videos(tmp_path / "s.tar.gz")


def test_remote_members_are_not_read(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    bucket = s3.make_bucket()
    clips = [
        (f"{n:02d}.{kind}", bytes(300_000) if kind == "mp4" else b"a cat") for n in range(8) for kind in ("mp4", "txt")
    ]
    for number in range(3):
        s3.client.put_object(Bucket=bucket, Key=f"d/s-{number}.tar", Body=tar_bytes(clips))
    num_bytes = []
    readinto = webdatasets._Ranges.readinto

    def counted(self: Any, buffer: Any) -> int:
        num_bytes.append(readinto(self, buffer))
        return num_bytes[-1]

    monkeypatch.setattr(webdatasets._Ranges, "readinto", counted)
    sources = videos(f"s3://{bucket}/d/s-{{0..2}}.tar")
    assert len(sources) == 24 and all(source.conversations for source in sources)
    assert sources == videos(f"s3://{bucket}/d/*.tar")
    assert sources[0].uri == f"s3://{bucket}/d/s-0.tar#00.mp4" and sources[0].size_bytes == 300_000
    assert sum(num_bytes) / 2 < 3 * 9 * 17_000  # of 7.2 MB: a range of 16 KiB for each large member
    place = sources[1].location
    body = s3.client.get_object(Bucket=bucket, Key="d/s-0.tar", Range=f"bytes={place.offset_bytes - 512}-")["Body"]
    assert body.read(5) == b"01.mp"


def test_a_name_with_a_hash_keeps_its_place(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "a#b.tar", [("take #1.mp4", b"xyz")])
    (source,) = videos(path)
    assert source.uri == f"{path}#take %231.mp4" and source.location.uri == str(path)
