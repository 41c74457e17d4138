"""The manifest and the failures as Parquet: there and back, same bytes, damage found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.manifest_io import (
    build_manifest,
    has_manifest,
    keep_manifest,
    put_manifest,
    read_failures,
    read_inputs,
    read_manifest,
    write_failures,
    write_manifest,
)
from pipelines.manifest_tables import write_inputs
from tests.architecture.sources import ROOT
from vamba.data.manifest import Failure, InputRow, Manifest, SampleRow, ShardRow


def make_manifest() -> Manifest:
    rows = [
        SampleRow(
            id=f"v{index}",
            shard="shard-000000.tar",
            offset_bytes=index * 1024,
            size_bytes=1024,
            split="train",
            media="video",
            duration_ns=3_600_000_000_000,
            num_frames=3600,
            width=640,
            height=360,
            num_conversations=2,
            source_uri=f"/v{index}.mp4",
            source_digest="sha256:" + f"{index}" * 64,
        )
        for index in (1, 0)
    ]
    shards = [ShardRow(name="shard-000000.tar", size_bytes=10240, sha256="a" * 64, num_samples=2)]
    return build_manifest(shards, rows, config_digest="sha256:c", inputs_digest="sha256:i")


def test_manifest_round_trip_and_same_bytes(tmp_path: Path) -> None:
    manifest = make_manifest()
    for name in ("one", "two"):
        write_manifest(tmp_path / name, manifest)
    assert has_manifest(tmp_path / "one") and not has_manifest(tmp_path / "none")
    assert read_manifest(tmp_path / "one") == manifest
    assert read_manifest(str(tmp_path / "one")).digest == manifest.digest
    files = [(tmp_path / name / "manifest.parquet").read_bytes() for name in ("one", "two")]
    assert files[0] == files[1]


def test_reading_leaves_no_thread_behind_that_could_abort_a_process_that_ends(tmp_path: Path) -> None:
    """A thread of Arrow's that lets go of Python's memory while the interpreter ends calls abort()."""
    write_manifest(tmp_path, make_manifest())
    write_failures(tmp_path, [Failure(id="v", source_uri="u", stage="probe", error_class="E", message="m")])
    write_inputs(tmp_path, 1, [("v0", "/v0.mp4", "sha256:0")])
    program = f"""
import os
from pipelines import manifest_io, manifest_tables
count = lambda: len(os.listdir("/proc/self/task"))
before, place = count(), {str(tmp_path)!r}
manifest_io.read_manifest(place), manifest_io.read_failures(place), list(manifest_io.iterate_samples(place))
manifest_tables.open_version(place), list(manifest_tables.read_inputs_of(place, 1))
print(count() - before)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr


def test_missing_dataset_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="vamba ingest"):
        read_manifest(tmp_path)


def test_changed_content_is_found(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    path = tmp_path / "manifest.parquet"
    table = pq.read_table(path)
    pq.write_table(table.slice(0, 1), path)
    with pytest.raises(ValueError, match="damaged"):
        read_manifest(tmp_path)


def test_other_parquet_file_is_refused(tmp_path: Path) -> None:
    write_failures(tmp_path, [])
    (tmp_path / "failures.parquet").rename(tmp_path / "manifest.parquet")
    with pytest.raises(ValueError, match="not a manifest"):
        read_manifest(tmp_path)


def test_earlier_versions_stay_readable(tmp_path: Path) -> None:
    first = make_manifest()
    write_manifest(tmp_path, first)
    assert read_manifest(tmp_path, 1) == first
    keep_manifest(tmp_path, first)
    second = replace(first, version=2, inputs_digest="sha256:j")
    write_manifest(tmp_path, second)
    assert (read_manifest(tmp_path), read_manifest(tmp_path, 2), read_manifest(tmp_path, 1)) == (second, second, first)
    with pytest.raises(FileNotFoundError, match="there are 1, 2"):
        read_manifest(tmp_path, 3)
    with pytest.raises(ValueError, match="somebody else has published"):
        keep_manifest(tmp_path, first)


def test_inputs_belong_to_a_version(tmp_path: Path) -> None:
    write_inputs(tmp_path, 2, [(name, f"/{name}", "sha256:d") for name in "ab"])
    rows = tuple(InputRow(id=name, uri=f"/{name}", digest="sha256:d") for name in "ab")
    assert read_inputs(tmp_path, 2) == rows and read_inputs(tmp_path, 1) is None


def test_failures_from_before_commands_are_read(tmp_path: Path) -> None:
    write_failures(
        tmp_path, [Failure(stage="probe", id="a", source_uri="/a", error_class="x", message="m", command="c")]
    )
    path = tmp_path / "failures.parquet"
    pq.write_table(pq.read_table(path).drop_columns("command"), path)
    assert read_failures(tmp_path)[0].command == ""


def test_failures_are_sorted_rows(tmp_path: Path) -> None:
    rows = [
        Failure(stage="probe", id=name, source_uri=f"/{name}", error_class="truncated", message="cut") for name in "ba"
    ]
    write_failures(tmp_path, rows)
    assert [row.id for row in read_failures(tmp_path)] == ["a", "b"]
    write_failures(tmp_path, [])
    assert read_failures(tmp_path) == ()


def test_a_manifest_takes_the_place_of_the_one_it_was_made_for_only(tmp_path: Path) -> None:
    first = make_manifest()
    write_manifest(tmp_path, first)
    with pytest.raises(ValueError, match="somebody else has published"):
        put_manifest(tmp_path, b"second", None)
    state = keep_manifest(tmp_path, first)
    put_manifest(tmp_path, b"second", state)
    with pytest.raises(ValueError, match="somebody else has published"):
        put_manifest(tmp_path, b"third", state)
    assert (tmp_path / "manifest.parquet").read_bytes() == b"second"
    put_manifest(tmp_path / "new", b"first", None)


def test_failures_of_earlier_versions_stay_readable(tmp_path: Path) -> None:
    rows = [Failure(stage="probe", id=name, source_uri=name, error_class="empty", message="") for name in ("a", "b")]
    write_failures(tmp_path, rows)
    write_failures(tmp_path, rows[:1], version=2)
    assert [len(read_failures(tmp_path, version)) for version in (None, 1, 2, 3)] == [1, 2, 1, 1]


def test_a_manifest_with_any_changed_byte_is_refused_by_name_or_read_as_it_was(tmp_path: Path) -> None:
    write_manifest(tmp_path, make_manifest())
    path, expected = tmp_path / "manifest.parquet", read_manifest(tmp_path)
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        try:
            assert read_manifest(tmp_path) == expected
        except ValueError as error:
            assert str(path) in str(error), error
