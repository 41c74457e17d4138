"""Which file system a URI leads to, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.filesystems import check_no_credentials, filesystem_of
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401


def test_local_paths_and_file_uris(tmp_path: Path) -> None:
    (tmp_path / "a#1.mp4").write_bytes(b"abc")
    for uri in (str(tmp_path / "a#1.mp4"), f"file://{tmp_path}/a#1.mp4"):
        filesystem, path = filesystem_of(uri)
        assert filesystem.cat_file(path) == b"abc"


def test_s3_through_the_endpoint_of_the_environment(s3: S3Server) -> None:  # noqa: F811
    bucket = s3.make_bucket()
    s3.client.put_object(Bucket=bucket, Key="folder/a b#1.mp4", Body=b"0123456789")
    filesystem, path = filesystem_of(f"s3://{bucket}/folder/a b#1.mp4")
    assert filesystem.info(path)["size"] == 10
    assert filesystem.cat_file(path, 2, 5) == b"234"
    assert [entry["name"] for entry in filesystem.ls(f"{bucket}/folder", detail=True)] == [path]
    with pytest.raises(FileNotFoundError):
        filesystem.info(f"{bucket}/gone")


def test_what_fsspec_knows() -> None:
    filesystem, path = filesystem_of("memory://films/a.mp4")
    filesystem.pipe_file(path, b"abc")
    assert filesystem_of("memory://films/a.mp4")[0].cat_file(path, 1, 2) == b"b"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("gs://bucket/a.mp4", "needs the Python package 'gcsfs'.*pip install gcsfs"),
        ("sftp://host/a.mp4", "pip install paramiko"),
        ("nonsense://a.mp4", "nothing is known about the scheme nonsense://"),
        ("webhdfs://", "cannot be reached"),
    ],
)
def test_what_cannot_be_reached_is_explained(uri: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        filesystem_of(uri)


@pytest.mark.parametrize(
    "uri",
    [
        "https://user:secret@host/a.mp4",
        "s3://key:secret@bucket/a.mp4",
        "https://host/a.mp4?X-Amz-Credential=secret&X-Amz-Signature=secret",
        "https://host/a.mp4?sv=2024&sig=secret",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(uri: str) -> None:
    with pytest.raises(ValueError, match="line 3: the address .*stored with the dataset") as caught:
        check_no_credentials(uri, "line 3")
    assert "secret" not in str(caught.value)
    check_no_credentials("https://host/a.jpg?w=600&h=400", "line 3")
