"""Lists folders and globs, local and remote, file by file: whatever their size, one page or one folder is in memory.

Data: path or URI → `FoundFile`s in no particular order. Names that begin with a dot are passed over, and so is what
lies in such folders. S3 is listed by pages of a thousand keys, sizes and times included; other remote file systems
folder by folder.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pipelines.filesystems import filesystem_of, is_local, local_path, scheme_of
from pipelines.ingest.kinds import is_pattern

_PAGE_KEYS = 1000  # S3's limit
_TIME_KEYS = ("mtime", "LastModified", "last_modified", "updated", "created")


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundFile:
    """A file that was found."""

    uri: str  # absolute path or URI
    relative: str  # to the folder, or to the fixed part of the glob
    size_bytes: int | None = None  # None: not looked at
    mtime_ns: int = 0


def what_is(uri: str) -> Literal["file", "folder"] | None:
    """Whether there is a file or a folder. What http has is a file; whether it is there, its download shows."""
    if is_local(uri):
        path = local_path(uri)
        if path.is_dir():
            return "folder"
        return "file" if path.exists() or path.is_symlink() else None
    filesystem, path_in = filesystem_of(uri)
    if scheme_of(uri) in ("http", "https"):
        return "file"
    try:
        kind = filesystem.info(path_in)["type"]
    except FileNotFoundError:
        return None
    except Exception as error:  # each library has errors of its own
        raise ValueError(f"{uri} cannot be looked at: {error}; check the address and the credentials") from error
    return "folder" if kind == "directory" else "file"


def stat(uri: str) -> tuple[int, int]:
    """Size in bytes and time of the last change in ns; (-1, 0) if it cannot be seen, and 0 for an unknown time."""
    if is_local(uri):
        try:
            status = os.stat(uri)
        except (OSError, ValueError):
            return -1, 0
        return status.st_size, status.st_mtime_ns
    filesystem, path = filesystem_of(uri)
    try:
        info = filesystem.info(path)
    except Exception:  # as above; the probe, which needs the bytes, says what it was
        return -1, 0
    size = info.get("size")
    return (-1 if size is None else int(size)), _mtime_ns(info)


def walk(folder: str) -> Iterator[FoundFile]:
    """All files below a folder.

    Raises:
        ValueError: it cannot be listed.
    """
    if is_local(folder):
        return _walk_local(str(local_path(folder)))
    root = folder.rstrip("/")
    return _walk_s3(root, root + "/") if scheme_of(root) == "s3" else _walk_fsspec(root)


def matching(pattern: str) -> Iterator[FoundFile]:
    """All files that a glob matches; `**` stands for any number of folders.

    Raises:
        ValueError: the place cannot be listed.
    """
    if is_local(pattern):
        path = str(local_path(pattern))
        root = _fixed_part(path)
        for match in glob.iglob(path, recursive=True):
            if os.path.isfile(match):
                yield FoundFile(uri=match, relative=os.path.relpath(match, root))
        return
    root = _fixed_part(pattern)
    rule = _compiled(pattern[len(root) + 1 :])
    prefix = re.split(r"[*?\[]", pattern, maxsplit=1)[0]
    files = _walk_s3(root, prefix) if scheme_of(root) == "s3" else _walk_fsspec(root)
    yield from (file for file in files if rule.fullmatch(file.relative))


def _fixed_part(pattern: str) -> str:
    scheme, separator, place = pattern.rpartition("://")
    parts: list[str] = []
    for part in place.split("/")[:-1]:
        if is_pattern(part):
            break
        parts.append(part)
    return scheme + separator + "/".join(parts)


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = []
    for part in pattern.split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
            continue
        text = re.sub(r"\[!", "[^", part)
        tokens = re.split(r"(\[[^\]]+\]|\*|\?)", text)
        known = {"*": "[^/]*", "?": "[^/]"}
        parts.append("".join(t if t.startswith("[") else known.get(t, re.escape(t)) for t in tokens) + "/")
    if pattern.endswith("**"):
        return re.compile("".join(parts) + "[^/]+")
    return re.compile("".join(parts).removesuffix("/"))


def _walk_local(root: str) -> Iterator[FoundFile]:
    visited: set[tuple[int, int]] = set()
    todo = [root]
    while todo:
        folder = todo.pop()
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:  # a link back to a folder above
                continue
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_dir():
                        todo.append(entry.path)
                    else:
                        yield FoundFile(uri=entry.path, relative=entry.path[len(root) :].lstrip("/"))
        except OSError as error:
            raise ValueError(
                f"the folder {folder} cannot be listed: {error.strerror}; check its permissions"
            ) from error


def _walk_s3(root: str, prefix: str) -> Iterator[FoundFile]:
    """Keys that begin with `prefix`, seen from the folder `root`."""
    import boto3
    import botocore.exceptions

    bucket, _, key_prefix = prefix.removeprefix("s3://").partition("/")
    root_key = root.removeprefix("s3://").partition("/")[2]
    try:
        pages = boto3.client("s3").get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=key_prefix, PaginationConfig={"PageSize": _PAGE_KEYS}):
            for entry in page.get("Contents", ()):
                relative = entry["Key"][len(root_key) :].lstrip("/")
                if entry["Key"].endswith("/") or _is_hidden(relative):
                    continue
                yield FoundFile(
                    uri=f"s3://{bucket}/{entry['Key']}",
                    relative=relative,
                    size_bytes=entry["Size"],
                    mtime_ns=_mtime_ns(entry),
                )
    except (botocore.exceptions.BotoCoreError, botocore.exceptions.ClientError) as error:
        raise ValueError(f"{prefix} cannot be listed: {error}; check the bucket and the AWS_* variables") from error


def _walk_fsspec(root: str) -> Iterator[FoundFile]:
    filesystem, root_path = filesystem_of(root)
    todo = [root_path]
    while todo:
        folder = todo.pop()
        try:
            entries = filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise ValueError(f"{root} cannot be listed: {error}; check the address and the credentials") from error
        for entry in entries:
            relative = entry["name"].rstrip("/")[len(root_path) :].lstrip("/")
            if _is_hidden(relative):
                continue
            if entry["type"] == "directory":
                todo.append(entry["name"])
            else:
                size = entry.get("size")
                yield FoundFile(uri=f"{root}/{relative}", relative=relative, size_bytes=size, mtime_ns=_mtime_ns(entry))


def _is_hidden(relative: str) -> bool:
    return relative.startswith(".") or "/." in relative


def _mtime_ns(info: Mapping[str, Any]) -> int:
    for key in _TIME_KEYS:
        value = info.get(key)
        if isinstance(value, datetime):
            return int(value.timestamp()) * 1_000_000_000  # a listing and a look at one object differ below seconds
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value * 1_000_000_000)
    return 0
