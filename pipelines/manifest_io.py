"""The manifest and the failures of a dataset, as Parquet files.

`manifest.parquet` has one row per sample, ordered by shard and offset; the shard table, versions and digests travel in
the file's metadata under the key `vamba`. `failures.parquet` has one row per failure, and so has
`failures-v00001.parquet` for each version; `inputs-v00001.parquet` has one per input of that version. All are written
whole and atomically, and the manifest last of all: a dataset without it is not there yet. The newest version is
`manifest.parquet`; earlier ones are kept as `manifest-v00001.parquet`, ….
"""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.storage import Storage, open_storage
from vamba.data.manifest import (
    FORMAT_VERSION,
    Failure,
    InputRow,
    Manifest,
    SampleRow,
    ShardRow,
    known_fields,
    sort_rows,
)

MANIFEST_NAME = "manifest.parquet"
FAILURES_NAME = "failures.parquet"
SHARDS_PREFIX = "shards"

_METADATA_KEY = b"vamba"
_ROWS_PER_BATCH = 4096
_KEPT = re.compile(r"manifest-v(\d{5,})\.parquet")

SAMPLE_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.string()),
        ("offset_bytes", pa.int64()),
        ("size_bytes", pa.int64()),
        ("split", pa.string()),
        ("media", pa.string()),
        ("duration_ns", pa.int64()),
        ("num_frames", pa.int32()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("num_conversations", pa.int32()),
        ("source_uri", pa.string()),
        ("source_digest", pa.string()),
        ("num_tokens", pa.int64()),
    ]
)
FAILURE_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("stage", "id", "source_uri", "error_class", "message", "command")]
)

INPUT_SCHEMA = pa.schema([(name, pa.string()) for name in ("id", "uri", "digest")])

DataUri = str | os.PathLike[str]


def has_manifest(data_uri: DataUri) -> bool:
    """Whether a finished dataset is there."""
    return open_storage(data_uri).exists(MANIFEST_NAME)


def read_manifest(data_uri: DataUri, version: int | None = None) -> Manifest:
    """Reads a manifest of the dataset at `data_uri`, the newest or that of a `version`, and checks its digest.

    Raises:
        FileNotFoundError: there is no finished dataset, or not that version of it.
        ValueError: the file was written by a newer program, or its content does not match its digest.
    """
    storage = open_storage(data_uri)
    if version is not None and storage.exists(_kept_name(version)):
        return _parse_manifest(storage.read_bytes(_kept_name(version)), f"{storage.uri}/{_kept_name(version)}")
    try:
        data = storage.read_bytes(MANIFEST_NAME)
    except FileNotFoundError as error:
        raise _no_dataset(storage) from error
    manifest = _parse_manifest(data, f"{storage.uri}/{MANIFEST_NAME}")
    if version not in (None, manifest.version):
        kept = [int(match[1]) for entry in storage.list() if (match := _KEPT.fullmatch(entry.path))]
        versions = ", ".join(map(str, [*kept, manifest.version]))
        raise FileNotFoundError(f"no version {version} of {storage.uri}: there are {versions}; ask for one of these")
    return manifest


def iterate_samples(data_uri: DataUri) -> Iterator[SampleRow]:
    """The rows of the newest manifest, a batch in memory at a time. Their digest is not checked.

    Raises:
        FileNotFoundError: there is no finished dataset.
    """
    storage = open_storage(data_uri)
    try:
        data = storage.read_bytes(MANIFEST_NAME)
    except FileNotFoundError as error:
        raise _no_dataset(storage) from error
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for batch in file.iter_batches(_ROWS_PER_BATCH, use_threads=False):
            yield from (SampleRow(**row) for row in batch.to_pylist())


def _no_dataset(storage: Storage) -> FileNotFoundError:
    return FileNotFoundError(
        f"no dataset at {storage.uri}: {MANIFEST_NAME} is missing. It is written last: run `vamba ingest` with "
        "this --out to its end (the same command continues an unfinished one), or correct the path"
    )


def _parse_manifest(data: bytes, path: str) -> Manifest:
    try:
        table = _read_table(data)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # a damaged page is an OSError to Arrow
        raise ValueError(
            f"{path} is not a manifest of this project, or is damaged: {error}; restore it from a copy or ingest again"
        ) from error
    header = parse_header(table.schema, path)
    try:
        manifest = Manifest(
            format_version=header["format_version"],
            version=header["version"],
            config_digest=header["config_digest"],
            inputs_digest=header["inputs_digest"],
            shards=tuple(ShardRow(**shard) for shard in header["shards"]),
            samples=tuple(SampleRow(**row) for row in table.to_pylist()),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _is_damaged(path, error) from error
    if manifest.digest != header["digest"]:
        raise ValueError(
            f"{path} is damaged: its content has digest {manifest.digest}, "
            f"but it says {header['digest']}; restore it from a copy or ingest again"
        )
    return manifest


def parse_header(schema: pa.Schema, path: str) -> dict[str, Any]:
    """What a manifest file says beside its rows: versions, digests, shards.

    Raises:
        ValueError: it says nothing, or a newer program wrote it.
    """
    metadata = schema.metadata or {}
    if _METADATA_KEY not in metadata:
        raise ValueError(f"{path} is not a manifest of this project: it has no metadata {_METADATA_KEY.decode()!r}")
    try:
        header: dict[str, Any] = json.loads(metadata[_METADATA_KEY])
        is_newer = header["format_version"] > FORMAT_VERSION
    except (ValueError, KeyError, TypeError) as error:
        raise _is_damaged(path, error) from error
    if is_newer:
        raise ValueError(
            f"{path} has format version {header['format_version']}; this program reads up to "
            f"{FORMAT_VERSION}: use a newer one"
        )
    return header


def _is_damaged(path: str, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({type(error).__name__}: {error}); restore it from a copy or ingest again")


def write_manifest(data_uri: DataUri, manifest: Manifest) -> None:
    """Writes the manifest atomically. Call it last: from then on the dataset exists."""
    schema = manifest_schema(manifest, manifest.digest)
    data = _table_bytes([asdict(row) for row in manifest.samples], schema)
    open_storage(data_uri).write_atomic(MANIFEST_NAME, data)


def manifest_schema(manifest: Manifest, digest: str) -> pa.Schema:
    """The schema of a manifest file, with all that the manifest says beside its rows."""
    header: dict[str, Any] = {
        "format_version": manifest.format_version,
        "version": manifest.version,
        "config_digest": manifest.config_digest,
        "inputs_digest": manifest.inputs_digest,
        "digest": digest,
        "shards": [known_fields(asdict(shard)) for shard in manifest.shards],
    }
    return SAMPLE_SCHEMA.with_metadata({_METADATA_KEY: json.dumps(header, separators=(",", ":")).encode()})


class Published(Protocol):
    """A version of a dataset."""

    @property
    def version(self) -> int:
        """Its number."""

    @property
    def digest(self) -> str:
        """The digest of its manifest."""


def keep_manifest(data_uri: DataUri, manifest: Published) -> str:
    """Keeps the published manifest under its version, before the next version takes its place.

    Returns:
        The state that it is in, for `put_manifest`.

    Raises:
        ValueError: what is published is not `manifest`.
    """
    storage = open_storage(data_uri)
    data, state = storage.read_version(MANIFEST_NAME)
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        header = parse_header(file.schema_arrow, f"{storage.uri}/{MANIFEST_NAME}")
    if header["digest"] != manifest.digest:
        raise _published_meanwhile(storage)
    storage.write_atomic(_kept_name(manifest.version), data)
    return state


def put_manifest(data_uri: DataUri, data: bytes, over: str | None) -> None:
    """Publishes the bytes of a manifest; the storage compares and writes in one step.

    Args:
        over: state of the manifest that it takes the place of, from `keep_manifest`; None: there is none yet.

    Raises:
        ValueError: another manifest is there.
    """
    storage = open_storage(data_uri)
    if not (storage.create(MANIFEST_NAME, data) if over is None else storage.replace(MANIFEST_NAME, data, over)):
        raise _published_meanwhile(storage)


def _published_meanwhile(storage: Storage) -> ValueError:
    return ValueError(
        f"{storage.uri} has another manifest than when this run began: somebody else has published a version. "
        "Run the same command again, to extend that one"
    )


def read_inputs(data_uri: DataUri, version: int) -> tuple[InputRow, ...] | None:
    """The inputs of a version, ordered by URI; None for a dataset from before they were recorded."""
    try:
        data = open_storage(data_uri).read_bytes(inputs_name(version))
    except FileNotFoundError:
        return None
    return tuple(InputRow(**row) for row in _read_table(data).to_pylist())


def read_failures(data_uri: DataUri, version: int | None = None) -> tuple[Failure, ...]:
    """The failures of a finished dataset, of the newest version or of a given one, ordered by id.

    Raises:
        FileNotFoundError: there is no failures file.
    """
    rows = _read_table(failure_bytes(data_uri, version)).to_pylist()
    return tuple(Failure(**row) for row in rows)


def failure_bytes(data_uri: DataUri, version: int | None = None) -> bytes:
    """The file of `read_failures`. A dataset from before they were kept by version has those of the newest only."""
    storage = open_storage(data_uri)
    if version is not None and storage.exists(_failures_name(version)):
        return storage.read_bytes(_failures_name(version))
    return storage.read_bytes(FAILURES_NAME)


def write_failures(data_uri: DataUri, failures: Iterable[Failure], version: int = 1) -> None:
    """Writes the failures of a version, ordered by id and stage, so that equal failures give equal bytes."""
    rows = [asdict(row) for row in sorted(failures, key=lambda row: (row.id, row.stage, row.message))]
    put_failures(data_uri, _table_bytes(rows, FAILURE_SCHEMA), version)


def put_failures(data_uri: DataUri, data: bytes, version: int) -> None:
    """Writes the bytes of a failures file, under the name of its version and as the newest."""
    storage = open_storage(data_uri)
    for name in (_failures_name(version), FAILURES_NAME):
        storage.write_atomic(name, data)


def build_manifest(
    shards: Iterable[ShardRow],
    samples: Iterable[SampleRow],
    *,
    config_digest: str,
    inputs_digest: str,
    version: int = 1,
) -> Manifest:
    """A manifest with shards and samples in their fixed order."""
    return Manifest(
        version=version,
        config_digest=config_digest,
        inputs_digest=inputs_digest,
        shards=tuple(sorted(shards, key=lambda shard: shard.name)),
        samples=sort_rows(samples),
    )


def _kept_name(version: int) -> str:
    return f"manifest-v{version:05d}.parquet"


def _failures_name(version: int) -> str:
    return f"failures-v{version:05d}.parquet"


def inputs_name(version: int) -> str:
    """Name of the file with the inputs of a version."""
    return f"inputs-v{version:05d}.parquet"


def _read_table(data: bytes) -> pa.Table:
    # Without any thread of Arrow's, also for reading (which a BytesIO is read on): one that lets go of Python's memory
    # while the process ends aborts it, with exit code 134 or 135 in place of the 2 of a refusal.
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        return file.read(use_threads=False)


def _table_bytes(rows: Sequence[dict[str, Any]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), buffer, compression="zstd")
    return buffer.getvalue()
