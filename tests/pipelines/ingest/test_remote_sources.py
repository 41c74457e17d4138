"""Sources by URI: S3, what fsspec knows, http; and what never gets into a stored address."""

from __future__ import annotations

import functools
import http.server
import json
import secrets
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipelines.ingest import walk
from pipelines.ingest.sources import FoundSources, find_sources
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401


@pytest.fixture
def bucket(s3: S3Server) -> str:  # noqa: F811
    name = s3.make_bucket()
    for key in ("films/a.mp4", "films/deep/B 1.mkv", "films/deep/notes.txt", "films/.hidden/c.mp4", "films/p.JPG"):
        s3.client.put_object(Bucket=name, Key=key, Body=b"12345")
    s3.client.put_object(Bucket=name, Key="films/empty/", Body=b"")
    return name


def ids(found: FoundSources) -> dict[str, str]:
    return {video.uri: video.id for video in found.videos()}


def test_a_prefix_is_a_folder(bucket: str) -> None:
    for uri in (f"s3://{bucket}/films", f"s3://{bucket}/films/"):
        found = find_sources([uri])
        assert ids(found) == {
            f"s3://{bucket}/films/a.mp4": "a",
            f"s3://{bucket}/films/deep/B 1.mkv": "deep-b-1",
            f"s3://{bucket}/films/p.JPG": "p",
        }
        assert [video.size_bytes for video in found.videos()] == [5, 5, 5]
        assert [video.media for video in found.videos()] == ["video", "video", "image"]
        assert found.counts.num_ignored_files == 1
    assert set(ids(find_sources([f"s3://{bucket}"])).values()) == {"films-a", "films-deep-b-1", "films-p"}


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("films/*.mp4", {"a"}),
        ("films/**/*.mkv", {"deep-b-1"}),
        ("films/**/*.[mP]*", {"a", "deep-b-1"}),
        ("f*s/a.mp?", {"films-a"}),
        ("films/{a.mp4,p.JPG}", {"a", "p"}),
        ("films/[!a]*.*", {"p"}),
    ],
)
def test_globs_and_braces(bucket: str, pattern: str, expected: set[str]) -> None:
    assert set(ids(find_sources([f"s3://{bucket}/{pattern}"])).values()) == expected


def test_an_object_is_seen_alike_by_itself_and_in_its_folder(bucket: str) -> None:
    (alone,) = find_sources([f"s3://{bucket}/films/a.mp4"]).videos()
    (in_folder,) = (video for video in find_sources([f"s3://{bucket}/films"]).videos() if video.id == "a")
    assert alone == in_folder and alone.mtime_ns > 0


def test_a_folder_of_several_pages(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    name = s3.make_bucket()
    for number in range(5):
        s3.client.put_object(Bucket=name, Key=f"{number}.mp4", Body=b"")
    monkeypatch.setattr(walk, "_PAGE_KEYS", 2)
    assert len(find_sources([f"s3://{name}/"])) == 5


def test_what_is_not_there_is_explained(bucket: str) -> None:
    for source, message in (
        (f"s3://{bucket}/nothing/", "does not exist"),
        (f"s3://{bucket}/films/*.avi", "holds no video or image"),
        (f"s3://no-{bucket}/*.mp4", "cannot be listed"),
        (f"s3://{bucket}/nothing.jsonl", "does not exist"),
        (f"s3://{bucket}/films/{{1..", "brace"),
        (f"s3://key:secret@{bucket}/films", "carries a user or password"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            find_sources([source])
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv"])
def test_a_remote_listing_names_relative_absolute_and_other_media(bucket: str, s3: S3Server, suffix: str) -> None:  # noqa: F811
    paths = ["films/a.mp4", "../outside.mp4", "/mnt/local.mp4", f"s3://{bucket}/films/p.JPG", "memory://other/x.png"]
    rows = [{"path": path, "caption": "ä"} for path in paths]
    bodies = {
        "jsonl": "\n".join(map(json.dumps, rows)),
        "json": json.dumps(rows),
        "csv": "path,caption\n" + "\n".join(f"{path},ä" for path in paths),
    }
    s3.client.put_object(Bucket=bucket, Key=f"lists/l.{suffix}", Body=bodies[suffix].encode())
    found = find_sources([f"s3://{bucket}/lists/l.{suffix}"])
    sizes = {video.uri: video.size_bytes for video in found.videos()}
    assert sizes == {
        f"s3://{bucket}/lists/films/a.mp4": -1,
        f"s3://{bucket}/outside.mp4": -1,
        "/mnt/local.mp4": -1,
        f"s3://{bucket}/films/p.JPG": 5,
        "memory://other/x.png": -1,
    }
    assert ids(found)[f"s3://{bucket}/lists/films/a.mp4"] == "films-a"
    assert {video.media for video in found.videos() if video.uri.endswith(("JPG", "png"))} == {"image"}


def test_a_local_listing_may_name_objects(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"video": f"s3://{bucket}/films/a.mp4", "caption": "A film."}))
    (video,) = find_sources([str(tmp_path / "l.jsonl")]).videos()
    assert (video.id, video.size_bytes) == (f"{bucket}-films-a", 5)
    added = find_sources([f"s3://{bucket}/films"], str(tmp_path / "l.jsonl"))
    assert sum(len(video.conversations) for video in added.videos()) == 1


@pytest.mark.parametrize("query", ["X-Amz-Signature=secret", "token=secret"])
def test_a_signed_link_in_a_listing_is_refused_by_its_row(tmp_path: Path, query: str) -> None:
    (tmp_path / "l.jsonl").write_text(json.dumps({"image": f"https://host/a.jpg?{query}"}))
    with pytest.raises(ValueError, match="line 1, column 'image'.*signed") as caught:
        find_sources([str(tmp_path / "l.jsonl")])
    assert "secret" not in str(caught.value)


def test_another_file_system(tmp_path: Path) -> None:
    root = f"memory://{secrets.token_hex(6)}"
    for name in ("a.mp4", "b/c.webm", "b/readme.md"):
        with fsspec.open(f"{root}/{name}", "wb") as file:
            file.write(b"123")
    assert ids(find_sources([root])) == {f"{root}/a.mp4": "a", f"{root}/b/c.webm": "b-c"}
    assert ids(find_sources([f"{root}/*/*.webm"])) == {f"{root}/b/c.webm": "b-c"}
    assert ids(find_sources([f"{root}/a.mp4"])) == {f"{root}/a.mp4": "a"}
    assert {video.size_bytes for video in find_sources([root]).videos()} == {3}


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """An http server of a folder."""
    (tmp_path / "web").mkdir()
    (tmp_path / "web/a.mp4").write_bytes(b"1234567")
    (tmp_path / "web/l.jsonl").write_text('{"url": "a.mp4", "text": "one"}\n{"url": "gone.jpg", "text": "two"}')
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_http(web: str) -> None:
    (video,) = find_sources([f"{web}/a.mp4?version=2"]).videos()
    assert (video.id, video.size_bytes, video.uri) == ("a", 7, f"{web}/a.mp4?version=2")
    a, gone = find_sources([f"{web}/l.jsonl"]).videos()
    assert (a.uri, a.size_bytes, a.media) == (f"{web}/a.mp4", 7, "video")
    assert (gone.uri, gone.size_bytes, gone.media) == (f"{web}/gone.jpg", -1, "image")
