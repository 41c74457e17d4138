"""Manifests, inputs and failures as tables: the same digests and bytes as from one object per row."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines import manifest_tables as tables
from pipelines.manifest_io import (
    FAILURE_SCHEMA,
    FAILURES_NAME,
    MANIFEST_NAME,
    SAMPLE_SCHEMA,
    build_manifest,
    read_inputs,
    read_manifest,
    write_failures,
    write_manifest,
)
from vamba.data.manifest import Failure, Manifest, SampleRow, ShardRow, digest_of


def make_manifest(num_samples: int) -> Manifest:
    rows = [
        SampleRow(
            id=f"käse-{number}"[-3:] + str(number),
            shard=f"shard-{number // 4:06d}.tar",
            offset_bytes=number % 4 * 10,
            size_bytes=10,
            split="train",
            media="video",
            duration_ns=10**9,
            num_frames=3,
            width=64,
            height=48,
            num_conversations=0,
            source_uri=f'/films/"{number}" ä.mp4',
            source_digest="sha256:0",
        )
        for number in range(num_samples)
    ]
    names = sorted({row.shard for row in rows})
    shards = [ShardRow(name=name, size_bytes=40, sha256="0" * 64, num_samples=4) for name in names]
    return build_manifest(shards, rows, config_digest="sha256:c", inputs_digest="sha256:i")


@pytest.mark.parametrize("num_samples", [0, 1, 9])
def test_a_manifest_has_the_same_digest_and_bytes(tmp_path: Path, num_samples: int) -> None:
    manifest = make_manifest(num_samples)
    header = replace(manifest, samples=())
    samples = tables.concat(SAMPLE_SCHEMA, [tables.table_of(SAMPLE_SCHEMA, map(asdict, manifest.samples))])
    assert tables.check_samples(header, samples) == manifest.digest
    write_manifest(tmp_path, manifest)
    expected = (tmp_path / MANIFEST_NAME).read_bytes()
    (tmp_path / MANIFEST_NAME).unlink()
    tables.write_manifest_table(tmp_path, header, manifest.digest, samples)
    assert (tmp_path / MANIFEST_NAME).read_bytes() == expected
    assert read_manifest(tmp_path) == manifest
    version = tables.open_version(tmp_path)
    assert version is not None and (version.header, version.digest) == (header, manifest.digest)
    assert [row for batch in version.batches() for row in batch.to_pylist()] == [*map(asdict, manifest.samples)]


def test_rows_that_do_not_fit_are_refused() -> None:
    manifest = make_manifest(4)
    header = replace(manifest, samples=())
    one, two = manifest.samples[:2]
    for rows, message in (
        ([one, replace(two, id=one.id)], "two samples have the id"),
        ([one, replace(two, offset_bytes=35)], "lies outside"),
        ([replace(one, shard="shard-000009.tar")], "lies outside"),
    ):
        with pytest.raises(ValueError, match=message):
            tables.check_samples(header, tables.table_of(SAMPLE_SCHEMA, map(asdict, rows)))


def test_changed_rows_are_found(tmp_path: Path) -> None:
    manifest = make_manifest(4)
    rows = tables.table_of(SAMPLE_SCHEMA, map(asdict, manifest.samples[:3]))
    tables.write_manifest_table(tmp_path, replace(manifest, samples=()), manifest.digest, rows)
    version = tables.open_version(tmp_path)
    assert version is not None
    with pytest.raises(ValueError, match="damaged or was replaced"):
        list(version.batches())
    assert tables.open_version(tmp_path / "nothing") is None


def test_failures_have_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    rows = [
        Failure(stage="probe", id=name, source_uri=f"/{name}", error_class="truncated", message="cut", command="c")
        for name in ("b", "ä", "a", "c")
    ]
    for some in (rows, []):
        write_failures(tmp_path, some)
        expected = (tmp_path / FAILURES_NAME).read_bytes()
        parts = [tables.table_of(FAILURE_SCHEMA, [asdict(row)]) for row in some]
        tables.write_failure_table(tmp_path, tables.concat(FAILURE_SCHEMA, parts), 1)
        assert (tmp_path / FAILURES_NAME).read_bytes() == expected
    assert tables.read_failure_table(tmp_path, 1).num_rows == 0


@pytest.mark.parametrize("num_rows", [0, 3, 25])
def test_inputs_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_rows: int) -> None:
    monkeypatch.setattr(tables, "_BATCH_ROWS", 2)
    monkeypatch.setattr(tables, "_GROUP_ROWS", 4)
    rows = [(f"id-{number}", f"/{number:02d} ä", f"sha256:{number}") for number in range(num_rows)]
    tables.write_inputs(tmp_path, 1, iter(rows))
    assert [(row.id, row.uri, row.digest) for row in read_inputs(tmp_path, 1) or ()] == rows
    assert list(tables.read_inputs_of(tmp_path, 1) or ()) == rows
    assert tables.digest_of_inputs(iter(rows)) == digest_of(sorted([uri, digest] for _, uri, digest in rows))
    assert tables.read_inputs_of(tmp_path, 2) is None
