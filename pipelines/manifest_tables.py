"""Manifests, inputs and failures as Arrow tables: the same files as `pipelines.manifest_io` writes, for a million rows.

Data: a published version is opened by its header, its rows are read batch by batch and hashed on the way; the rows of a
new version come as tables, are checked, hashed and written. Nothing here makes an object per row that outlives it, and
the digest is that of `vamba.data.manifest.Manifest`.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.manifest_io import (
    FAILURE_SCHEMA,
    INPUT_SCHEMA,
    MANIFEST_NAME,
    SAMPLE_SCHEMA,
    DataUri,
    failure_bytes,
    inputs_name,
    manifest_schema,
    parse_header,
    put_failures,
    put_manifest,
)
from pipelines.storage import open_storage
from vamba.data.manifest import Failure, Manifest, ShardRow, known_fields

_BATCH_ROWS = 10_000
_GROUP_ROWS = 100_000  # of a row group of the inputs


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVersion:
    """A published version of a dataset; its rows stay in its file."""

    data_uri: str
    header: Manifest  # without samples
    digest: str
    num_samples: int
    schema: pa.Schema  # of its rows

    @property
    def version(self) -> int:
        """The version's number."""
        return self.header.version

    def batches(self) -> Iterator[pa.RecordBatch]:
        """The rows, in order, some thousands at a time.

        Raises:
            ValueError: at the end, if their digest is not the recorded one, or another version is there by now.
        """
        storage = open_storage(self.data_uri)
        hasher = _Hasher(self.header)
        with pq.ParquetFile(pa.BufferReader(storage.read_bytes(MANIFEST_NAME))) as file:
            for batch in file.iter_batches(_BATCH_ROWS, use_threads=False):
                hasher.add(batch)
                yield batch
        if hasher.digest() != self.digest:
            raise ValueError(
                f"{storage.uri}/{MANIFEST_NAME} is damaged or was replaced meanwhile: its content has digest "
                f"{hasher.digest()}, expected was {self.digest}; run the same command again, or restore it from a copy"
            )


def open_version(data_uri: DataUri) -> StoredVersion | None:
    """The newest version of a dataset; None if nothing is finished there.

    Raises:
        ValueError: the file is not a manifest, or a newer program wrote it.
    """
    storage = open_storage(data_uri)
    try:
        data = storage.read_bytes(MANIFEST_NAME)
    except FileNotFoundError:
        return None
    path = f"{storage.uri}/{MANIFEST_NAME}"
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            schema, num_samples = file.schema_arrow, file.metadata.num_rows
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path} is not a manifest of this project: {error}") from error
    header = parse_header(schema, path)
    digest = header.pop("digest")
    shards = tuple(ShardRow(**shard) for shard in header.pop("shards"))
    manifest = Manifest(**header, shards=shards, samples=())
    return StoredVersion(data_uri=str(data_uri), header=manifest, digest=digest, num_samples=num_samples, schema=schema)


def check_samples(header: Manifest, samples: pa.Table) -> str:
    """The digest of a manifest with this header and these rows.

    Raises:
        ValueError: a row does not fit the shards, or two rows share an id.
    """
    hasher = _Hasher(header)
    seen = set()
    sizes = {shard.name: shard.size_bytes for shard in header.shards}
    for batch in samples.to_batches(_BATCH_ROWS):
        for row in batch.to_pylist():
            end = row["offset_bytes"] + row["size_bytes"]
            if row["size_bytes"] <= 0 or not 0 <= row["offset_bytes"] < end <= sizes.get(row["shard"], -1):
                raise ValueError(f"manifest: sample {row['id']} lies outside shard {row['shard']!r}")
            key = hashlib.blake2b(row["id"].encode(), digest_size=12).digest()  # a quarter of the id's own size
            if key in seen:
                raise ValueError(f"manifest: two samples have the id {row['id']!r}")
            seen.add(key)
        hasher.add(batch)
    return hasher.digest()


def write_manifest_table(
    data_uri: DataUri, header: Manifest, digest: str, samples: pa.Table, *, over: str | None = None
) -> None:
    """Writes a manifest atomically. Call it last: from then on the version exists. `over`: see `put_manifest`."""
    table = (
        samples.combine_chunks().cast(SAMPLE_SCHEMA).replace_schema_metadata(manifest_schema(header, digest).metadata)
    )
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    put_manifest(data_uri, buffer.getvalue(), over)


def write_failure_table(data_uri: DataUri, failures: pa.Table, version: int) -> None:
    """Writes the failures of a version, ordered by id, stage and message, so that equal failures give equal bytes."""
    order = [("id", "ascending"), ("stage", "ascending"), ("message", "ascending")]
    buffer = io.BytesIO()
    pq.write_table(failures.sort_by(order).combine_chunks(), buffer, compression="zstd")
    put_failures(data_uri, buffer.getvalue(), version)


def read_failure_table(data_uri: DataUri, version: int) -> pa.Table:
    """The failures of a version of a dataset, ordered by id."""
    with pq.ParquetFile(pa.BufferReader(failure_bytes(data_uri, version))) as file:
        table = file.read(use_threads=False)
    if table.schema.equals(FAILURE_SCHEMA):
        return table
    return table_of(FAILURE_SCHEMA, (asdict(Failure(**row)) for row in table.to_pylist()))  # of an earlier program


def write_inputs(data_uri: DataUri, version: int, rows: Iterable[tuple[str, str, str]]) -> None:
    """Writes the inputs of a version (id, uri, digest; ordered by uri) as they come."""
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, INPUT_SCHEMA, compression="zstd") as writer:
        for table in _tables(INPUT_SCHEMA, rows):
            writer.write_table(table)
    open_storage(data_uri).write_atomic(inputs_name(version), buffer.getvalue())


def read_inputs_of(data_uri: DataUri, version: int) -> Iterator[tuple[str, str, str]] | None:
    """The inputs of a version; None for a dataset from before they were recorded."""
    try:
        data = open_storage(data_uri).read_bytes(inputs_name(version))
    except FileNotFoundError:
        return None
    return _input_rows(data)


def _input_rows(data: bytes) -> Iterator[tuple[str, str, str]]:
    with pq.ParquetFile(pa.BufferReader(data)) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["id", "uri", "digest"], use_threads=False):
            yield from zip(*(batch.column(name).to_pylist() for name in ("id", "uri", "digest")), strict=True)


def digest_of_inputs(rows: Iterable[tuple[str, str, str]]) -> str:
    """Digest of inputs ordered by uri. Ids are left out: they depend on the order in which the videos came."""
    state = hashlib.sha256(b"[")
    for number, (_, uri, digest) in enumerate(rows):
        state.update(_json([uri, digest], first=number == 0))
    state.update(b"]")
    return "sha256:" + state.hexdigest()


def table_of(schema: pa.Schema, rows: Iterable[Any]) -> pa.Table:
    """Dictionaries as a table."""
    return pa.Table.from_pylist(list(rows), schema=schema)


def concat(schema: pa.Schema, tables: Iterable[pa.Table]) -> pa.Table:
    """Tables behind each other under one schema; columns that an earlier program did not write are null."""
    tables = [table.replace_schema_metadata(None) for table in tables]
    return pa.concat_tables([table_of(schema, []), *tables], promote_options="default").cast(schema)


class _Hasher:
    """The digest of a manifest, from its header and its rows as they come."""

    def __init__(self, header: Manifest) -> None:
        shards = [known_fields(asdict(shard)) for shard in header.shards]
        document = {**asdict(header), "shards": shards, "samples": []}
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        head, mark, self._tail = text.partition('"samples":[')
        self._state = hashlib.sha256((head + mark).encode())
        self._is_first = True

    def add(self, batch: pa.RecordBatch) -> None:
        for row in batch.to_pylist():
            self._state.update(_json(known_fields(row), first=self._is_first))
            self._is_first = False

    def digest(self) -> str:
        state = self._state.copy()
        state.update(self._tail.encode())
        return "sha256:" + state.hexdigest()


def _json(value: Any, *, first: bool) -> bytes:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return (text if first else "," + text).encode()


def _tables(schema: pa.Schema, rows: Iterable[tuple[str, str, str]]) -> Iterator[pa.Table]:
    """Rows as tables of `_GROUP_ROWS`; one, which may be empty, if they are fewer."""
    iterator, is_first = iter(rows), True
    while (table := _take(schema, iterator)).num_rows or is_first:
        is_first = False
        yield table


def _take(schema: pa.Schema, iterator: Iterator[tuple[str, str, str]]) -> pa.Table:
    """The next rows as a table; its strings are in Arrow before the next thousands are fetched."""
    batches: list[pa.RecordBatch] = []
    while len(batches) * _BATCH_ROWS < _GROUP_ROWS and (rows := list(islice(iterator, _BATCH_ROWS))):
        arrays = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        batches.append(pa.record_batch(arrays, schema=schema))
    return pa.Table.from_batches(batches, schema=schema).combine_chunks()
