"""Objects below a prefix of an S3 bucket, as a `Storage`.

Every operation is one request of boto3's client, but for large files, which go up in parts, streamed and checksummed.
A put is atomic on S3. `create` and `replace` carry a condition (`If-None-Match: *`, `If-Match: ETag`) that the store
checks in the same step, so of several writers one wins, whichever machines they are on. boto3 is imported with the
first client; credentials, region and endpoint come from the usual AWS_* variables.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from pipelines.processes import process_name
from pipelines.s3_errors import Conflict, PastTheEnd, Refused, explain
from pipelines.stored_file import StoredFile

_PART_BYTES = 8 * 1024**2
_READ_BYTES = 1024**2
_ATTEMPTS = 6
_DELETE_AT_ONCE = 1000  # what one request may name
_PAUSE_S = 0.2


class S3Storage:
    """A prefix of a bucket."""

    def __init__(self, uri: str) -> None:
        self._bucket, _, prefix = uri.removeprefix("s3://").rstrip("/").partition("/")
        self._uri = f"s3://{self._bucket}/{prefix}".rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""
        if not self._bucket:
            raise ValueError(f"storage URI {uri!r} names no bucket; write s3://BUCKET/PREFIX")

    @property
    def uri(self) -> str:
        return self._uri

    def read_bytes(self, path: str) -> bytes:
        return self._read(path, 0, None)[0]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        data, _ = self._read(path, offset, length) if length else (b"", "")
        if len(data) != length:
            raise EOFError(f"{self._uri}/{path} ends before byte {offset + length}")
        return data

    def read_version(self, path: str) -> tuple[bytes, str]:
        return self._read(path, 0, None)

    def write_atomic(self, path: str, data: bytes) -> None:
        self._call("put_object", path, Body=data)

    def put_file(self, path: str, local_path: Path) -> None:
        import boto3.s3.transfer
        from botocore.exceptions import BotoCoreError, ClientError

        # Parts are read from the disk as they are sent; a failure aborts the upload, and nothing appears.
        parts = boto3.s3.transfer.TransferConfig(
            multipart_threshold=2 * _PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4
        )
        try:
            self._client.upload_file(str(local_path), self._bucket, self._prefix + path, Config=parts)
        except boto3.exceptions.S3UploadFailedError as error:
            cause = error.__context__
            if not isinstance(cause, (BotoCoreError, ClientError)):
                raise
            explain(cause, self._bucket, path, "put_object")
        except (BotoCoreError, ClientError) as error:
            explain(error, self._bucket, path, "put_object")
        local_path.unlink()

    def create(self, path: str, data: bytes) -> bool:
        return self._put_if(path, data, IfNoneMatch="*") is not None

    def replace(self, path: str, data: bytes, version: str) -> str | None:
        return self._put_if(path, data, IfMatch=version)

    def exists(self, path: str) -> bool:
        try:
            self._call("head_object", path)
        except FileNotFoundError:
            return False
        return True

    def walk(self, prefix: str = "") -> Iterator[StoredFile]:
        folder = self._prefix + (f"{prefix.strip('/')}/" if prefix else "")
        token: dict[str, str] = {}
        while True:
            page = self._call("list_objects_v2", None, Prefix=folder, **token)
            for entry in page.get("Contents", ()):
                if not entry["Key"].endswith("/"):  # the mark of an empty folder, made by consoles
                    yield StoredFile(path=entry["Key"].removeprefix(self._prefix), size_bytes=entry["Size"])
            if not page.get("IsTruncated"):
                return
            token = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, path: str) -> None:
        self._call("delete_object", path)

    def delete_version(self, path: str, version: str) -> bool:
        try:
            self._call("delete_object", path, IfMatch=version)
        except (Refused, FileNotFoundError):
            return False
        return True

    def delete_tree(self, prefix: str) -> None:
        entries = self.walk(prefix)
        while names := [{"Key": self._prefix + entry.path} for entry in islice(entries, _DELETE_AT_ONCE)]:
            answer = self._call("delete_objects", None, Delete={"Objects": names, "Quiet": True})
            for problem in answer.get("Errors", ()):
                raise ConnectionError(f"s3://{self._bucket}/{problem['Key']} was not deleted: {problem.get('Message')}")

    def remove_leftovers(self) -> None:
        page = self._call("list_multipart_uploads", None, Prefix=self._prefix)
        for upload in page.get("Uploads", ()):
            path = upload["Key"].removeprefix(self._prefix)
            self._call("abort_multipart_upload", path, UploadId=upload["UploadId"])

    def scratch_dir(self, prefix: str) -> Path:
        """A folder of this process; those that killed processes left for this prefix are removed."""
        name = hashlib.sha256(f"{self._uri}/{prefix}".encode()).hexdigest()[:16]
        parent = Path(tempfile.gettempdir(), f"vamba-scratch-{os.getuid()}-{name}")
        own = parent / process_name(os.getpid())
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in parent.iterdir():
            if folder.name != process_name(int(folder.name.partition("-")[0])):
                shutil.rmtree(folder, ignore_errors=True)
        return own

    @property
    def _client(self) -> Any:
        return _client(os.getpid(), *_settings())

    def _call(self, operation: str, path: str | None, **arguments: Any) -> Any:
        from botocore.exceptions import BotoCoreError, ClientError

        if path is not None:
            arguments["Key"] = self._prefix + path
        try:
            return getattr(self._client, operation)(Bucket=self._bucket, **arguments)
        except (BotoCoreError, ClientError) as error:
            explain(error, self._bucket, path, operation)

    def _read(self, path: str, offset: int, length: int | None) -> tuple[bytes, str]:
        """What there is of a range, and the version it is of. After a broken connection only the rest is asked for."""
        from botocore.exceptions import BotoCoreError

        data = bytearray()
        arguments: dict[str, str] = {}
        for attempt in range(_ATTEMPTS):
            arguments.pop("Range", None)
            if offset or length is not None or data:
                end = "" if length is None else offset + length - 1
                arguments["Range"] = f"bytes={offset + len(data)}-{end}"
            try:
                answer = self._call("get_object", path, **arguments)
            except PastTheEnd:
                return bytes(data), arguments.get("IfMatch", "")
            except Refused:  # replaced meanwhile: from the start
                data.clear()
                del arguments["IfMatch"]
                continue
            arguments["IfMatch"] = answer["ETag"]  # of an object that is replaced meanwhile no two parts are mixed
            try:
                while part := answer["Body"].read(_READ_BYTES):
                    data += part
                return bytes(data), answer["ETag"]
            except BotoCoreError as error:
                if attempt + 1 == _ATTEMPTS:
                    raise ConnectionError(
                        f"reading s3://{self._bucket}/{path} broke off again and again: {error}"
                    ) from error
                time.sleep(_PAUSE_S * 2**attempt)
        raise AssertionError("unreachable")

    def _put_if(self, path: str, data: bytes, **condition: str) -> str | None:
        """Puts an object under a condition; returns its version, None if the condition does not hold."""
        for attempt in range(_ATTEMPTS):
            try:
                answer = self._call("put_object", path, Body=data, **condition)
                return str(answer["ETag"])
            except FileNotFoundError:  # If-Match on an object that is gone
                return None
            except Conflict:
                time.sleep(_PAUSE_S * 2**attempt)
            except Refused as refused:
                if not refused.was_retried:
                    return None
                # The answer to the first try may have been lost: then it is our own object that refuses the second.
                found, version = self._read_or_nothing(path)
                return version if found == data else None
        return None

    def _read_or_nothing(self, path: str) -> tuple[bytes, str]:
        try:
            return self.read_version(path)
        except FileNotFoundError:
            return b"", ""

    def list(self, prefix: str = "") -> list[StoredFile]:
        return sorted(self.walk(prefix), key=lambda entry: entry.path)


def _settings() -> tuple[str | None, str | None]:
    """Endpoint and region. boto3 reads AWS_DEFAULT_REGION only; other tools, AWS_REGION too."""
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    return endpoint, os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or None


@functools.lru_cache(maxsize=8)
def _client(pid: int, endpoint: str | None, region: str | None) -> Any:
    """The client of this process: its connections must not be shared with a forked child."""
    import boto3
    from botocore.config import Config

    settings = Config(
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        connect_timeout=10,
        read_timeout=60,
        max_pool_connections=32,
    )
    return boto3.session.Session().client("s3", endpoint_url=endpoint, region_name=region, config=settings)
