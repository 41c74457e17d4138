"""S3: conditions hold among writers and through lost answers; large files go up in parts; errors say what to do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import pytest
from moto.core import DEFAULT_ACCOUNT_ID
from moto.s3.models import s3_backends
from werkzeug.wrappers import Request, Response

from pipelines import s3 as s3_module
from pipelines.s3 import S3Storage
from pipelines.storage import open_storage
from tests.pipelines.unruly_s3 import BUCKET, UnrulyS3, error, unruly  # noqa: F401 - a fixture

URI = f"s3://{BUCKET}/data/set"


@pytest.fixture
def storage(unruly: UnrulyS3, monkeypatch: pytest.MonkeyPatch) -> S3Storage:  # noqa: F811
    monkeypatch.setattr(s3_module, "_PAUSE_S", 0.001)
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0.0)
    return S3Storage(URI)


def at_once(number: int, work: Callable[[int], object]) -> list[object]:
    results: list[object] = [None] * number
    barrier = threading.Barrier(number)

    def run(index: int) -> None:
        barrier.wait()
        results[index] = work(index)

    threads = [threading.Thread(target=run, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def times(number: int, answer: Response, method: str = "PUT") -> Callable[[Request], Response | None]:
    left = [number]

    def rule(request: Request) -> Response | None:
        if request.method != method or left[0] == 0:
            return None
        left[0] -= 1
        return answer

    return rule


def test_of_many_creators_one_wins(storage: S3Storage) -> None:
    assert sorted(map(str, at_once(8, lambda n: storage.create("lock", b"%d" % n)))) == ["False"] * 7 + ["True"]


def test_of_many_who_replace_one_state_one_wins(storage: S3Storage) -> None:
    storage.write_atomic("lock", b"first")
    _, state = storage.read_version("lock")
    results = at_once(8, lambda n: storage.replace("lock", b"%d" % n, state))
    (winner,) = [index for index, result in enumerate(results) if result is not None]
    assert storage.read_version("lock") == (b"%d" % winner, results[winner])
    assert not storage.delete_version("lock", state) and storage.delete_version("lock", str(results[winner]))


def test_a_lost_answer_does_not_hide_who_wrote(storage: S3Storage, unruly: UnrulyS3) -> None:  # noqa: F811
    lost = [True, False, True, False]
    unruly.loses_answer = lambda request: request.method == "PUT" and lost.pop(0)
    assert storage.create("lock", b"mine")  # the first try was done, the second refused by it
    _, state = storage.read_version("lock")
    assert storage.replace("lock", b"mine again", state) is not None
    unruly.loses_answer = None
    assert not storage.create("lock", b"another's")
    assert storage.read_bytes("lock") == b"mine again"


def test_a_conflict_with_another_writer_is_tried_again(storage: S3Storage, unruly: UnrulyS3) -> None:  # noqa: F811
    unruly.rule = times(2, error(409, "ConditionalRequestConflict"))
    assert storage.create("a", b"x") and unruly.requests.count("PUT data/set/a") == 3


@pytest.mark.parametrize("method", ["PUT", "GET", "HEAD", "DELETE"])
def test_a_busy_store_is_asked_again(storage: S3Storage, unruly: UnrulyS3, method: str) -> None:  # noqa: F811
    storage.write_atomic("a", b"old")
    unruly.rule = times(3, error(503, "SlowDown"), method)
    storage.write_atomic("a", b"new")
    assert storage.exists("a") and storage.read_bytes("a") == b"new"
    storage.delete("a")
    assert not storage.exists("a")


def test_a_broken_read_goes_on_where_it_broke(storage: S3Storage, unruly: UnrulyS3) -> None:  # noqa: F811
    data = bytes(range(256)) * 20_000
    storage.write_atomic("a", data)
    _, etag = storage.read_version("a")
    ranges: list[str | None] = []

    def half() -> Iterator[bytes]:
        yield data[:3_000_000]
        raise ConnectionAbortedError

    def cut(request: Request) -> Response | None:
        ranges.append(request.headers.get("Range"))
        return Response(half(), 200, {"Content-Length": str(len(data)), "ETag": etag}) if len(ranges) == 1 else None

    unruly.rule = cut
    assert storage.read_bytes("a") == data
    assert ranges[0] is None and int(str(ranges[1]).removeprefix("bytes=").removesuffix("-")) > 0


def test_a_large_file_goes_up_in_parts_with_checksums(storage: S3Storage, tmp_path: Path) -> None:
    local = tmp_path / "shard"
    data = bytes(range(251)) * 100_000
    local.write_bytes(data)
    storage.put_file("shards/a.tar", local)
    assert not local.exists() and storage.read_bytes("shards/a.tar") == data
    head = boto3.client("s3").head_object(Bucket=BUCKET, Key="data/set/shards/a.tar", ChecksumMode="ENABLED")
    assert head["ETag"].endswith('-3"') and "ChecksumCRC32" in head


def test_a_failed_upload_leaves_nothing(storage: S3Storage, unruly: UnrulyS3, tmp_path: Path) -> None:  # noqa: F811
    local = tmp_path / "shard"
    local.write_bytes(bytes(20_000_000))
    unruly.rule = lambda request: error(403, "AccessDenied") if request.args.get("partNumber") == "2" else None
    with pytest.raises(ValueError, match="access to s3://unruly/shards/a.tar is denied.*s3:PutObject"):
        storage.put_file("shards/a.tar", local)
    assert local.exists() and storage.list() == []
    assert "Uploads" not in boto3.client("s3").list_multipart_uploads(Bucket=BUCKET)


def test_uploads_of_killed_writers_are_removed(storage: S3Storage) -> None:
    client = boto3.client("s3")
    for key in ("data/set/shards/a.tar", "data/other"):
        client.create_multipart_upload(Bucket=BUCKET, Key=key)
    storage.remove_leftovers()
    assert [upload["Key"] for upload in client.list_multipart_uploads(Bucket=BUCKET)["Uploads"]] == ["data/other"]


def test_large_folders_are_listed_and_removed_page_by_page(storage: S3Storage, unruly: UnrulyS3) -> None:  # noqa: F811
    backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
    for number in range(1003):
        backend.put_object(BUCKET, f"data/set/work/{number:04}", b"x")
    storage.write_atomic("workshop", b"not in the folder")
    unruly.requests.clear()
    walk = storage.walk("work")
    assert next(walk).path == "work/0000" and len(unruly.requests) == 1
    assert len(list(walk)) == 1002
    storage.delete_tree("work")
    assert [entry.path for entry in storage.list()] == ["workshop"]


def test_scratch_of_killed_processes_is_removed(storage: S3Storage, tmp_path: Path, monkeypatch) -> None:  # type: ignore
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    scratch = storage.scratch_dir("_ingest/x/scratch")
    dead = scratch.parent / "999999999-1"
    dead.mkdir()
    (dead / "shard").write_bytes(b"half")
    assert storage.scratch_dir("_ingest/x/scratch") == scratch and not dead.exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (error(404, "NoSuchBucket"), "there is no bucket 'unruly'.*create it"),
        (error(403, "AccessDenied"), "access to s3://unruly/a is denied.*s3:PutObject.*policy"),
        (error(403, "InvalidAccessKeyId"), "denied .InvalidAccessKeyId.*check the key"),
        (error(400, "AuthorizationHeaderMalformed"), "another region.*AWS_REGION"),
        (error(501, "NotImplemented"), "conditional writes"),
    ],
)
def test_errors_name_bucket_rule_and_remedy(
    storage: S3Storage,
    unruly: UnrulyS3,  # noqa: F811
    answer: Response,
    message: str,
) -> None:
    unruly.rule = lambda request: answer if request.method == "PUT" else None
    with pytest.raises(ValueError, match=message):
        storage.create("a", b"x")


def test_no_credentials_and_no_store(storage: S3Storage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(ConnectionError, match="does not answer.*AWS_ENDPOINT_URL"):
        storage.read_bytes("a")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3_module._client.cache_clear()
    with pytest.raises(ValueError, match="no credentials.*AWS_ACCESS_KEY_ID"):
        storage.read_bytes("a")
    s3_module._client.cache_clear()


def test_region_and_endpoint_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://one:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "two:2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    client = S3Storage("s3://bucket")._client
    assert (client.meta.endpoint_url, client.meta.region_name) == ("https://two:2", "eu-central-1")
    with pytest.raises(ValueError, match="names no bucket"):
        open_storage("s3://")
