"""Verification of datasets: clean ones are clean, and every kind of damage is found and named."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.datasets.verify import Verification, verify
from pipelines.manifest_io import read_manifest, write_manifest
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset
from vamba.data.manifest import Manifest, ShardRow
from vamba.data.sample import Sample

SHARD = "shard-000000.tar"


def samples() -> list[Sample]:
    return [make_sample(f"clip-{index}", num_frames=3, num_questions=1) for index in range(3)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", samples())
    return tmp_path / "data"


def rules(found: Verification) -> set[tuple[str, str]]:
    return {(finding.sample, finding.rule) for finding in found.findings}


def resealed(data: Path, change: Callable[[bytearray], None]) -> None:
    """Changes the shard and gives the manifest the new digest, so that only the rules about samples can find it."""
    path = data / "shards" / SHARD
    content = bytearray(path.read_bytes())
    change(content)
    path.write_bytes(content)
    manifest = read_manifest(data)
    shard = ShardRow(name=SHARD, size_bytes=len(content), sha256=hashlib.sha256(content).hexdigest(), num_samples=3)
    write_manifest(data, replace(manifest, shards=(shard,)))


def with_first_row(data: Path, **changes: object) -> Manifest:
    manifest = read_manifest(data)
    first, *others = manifest.samples
    changed = replace(manifest, samples=(replace(first, **changes), *others))  # type: ignore[arg-type]
    write_manifest(data, changed)
    return changed


@pytest.mark.parametrize("decode", [False, True])
def test_a_clean_dataset_is_clean(data: Path, decode: bool) -> None:
    seen: list[tuple[int, int, int]] = []
    found = verify(str(data), decode=decode, progress=lambda *now: seen.append(now))
    assert found.clean and found.decoded == decode
    size_bytes = (data / "shards" / SHARD).stat().st_size
    assert (found.num_shards, found.num_samples, found.num_frames, found.size_bytes) == (1, 3, 9, size_bytes)
    assert seen == [(1, 1, size_bytes)]


def test_any_changed_byte_of_a_shard_is_found(data: Path) -> None:
    path = data / "shards" / SHARD
    content = path.read_bytes()
    places = [0, len(content) - 1, *random.Random(0).sample(range(len(content)), 60)]
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        found = verify(str(data))
        assert ("", "sha256") in rules(found), place
    path.write_bytes(content)
    assert verify(str(data)).clean


def test_damage_is_named_by_sample_and_rule(data: Path) -> None:
    second = read_manifest(data).samples[1]
    name = f"{second.id}.000001.jpg".encode()

    def rename(content: bytearray) -> None:
        place = content.index(name)
        content[place : place + len(name)] = name.replace(b"000001", b"000007")

    resealed(data, rename)  # the header's checksum no longer fits
    assert rules(verify(str(data))) == {("clip-1", "tar")}


def test_a_frame_that_is_cut_or_does_not_decode_is_found(data: Path) -> None:
    def unmark(content: bytearray) -> None:
        content[content.rindex(b"\xff\xd9")] = 0

    resealed(data, unmark)
    assert rules(verify(str(data))) == {("clip-2", "jpeg")}


def test_decoding_finds_what_the_markers_hide(data: Path) -> None:
    def scramble(content: bytearray) -> None:
        scan = content.index(b"\xff\xda") + 14
        content[scan : scan + 2] = b"\xff\xd4"  # a restart marker where none belongs

    resealed(data, scramble)
    assert verify(str(data)).clean
    found = verify(str(data), decode=True)
    assert rules(found) == {("clip-0", "jpeg")} and "frame 000000" in found.findings[0].message


@pytest.mark.parametrize(
    ("key", "value", "rule"),
    [
        ("duration_ns", 4 * 10**9, "row"),
        ("width", 65, "row"),
        ("source_digest", "sha256:" + "e" * 64, "row"),
        ("split", "train", "row"),
        ("num_conversations", 7, "row"),
        ("num_frames", 2, "members"),
        ("num_frames", 4, "members"),
    ],
)
def test_a_row_that_differs_from_the_sample_is_found(data: Path, key: str, value: object, rule: str) -> None:
    with_first_row(data, **{key: value})
    assert ("clip-0", rule) in rules(verify(str(data)))


@pytest.mark.parametrize(
    "times", ["[0,2000000000,1000000000]", "[0,1000000000,2000000.00]", "[0,1000000000,1000000000]"]
)
def test_timestamps_that_do_not_increase_or_are_no_integers_are_found(data: Path, times: str) -> None:
    old = b"[0,1000000000,2000000000]"

    def disorder(content: bytearray) -> None:
        place = content.index(old)
        content[place : place + len(old)] = times.ljust(len(old)).encode()

    resealed(data, disorder)
    assert rules(verify(str(data))) == {("clip-0", "timestamps")}


def test_json_that_is_not_a_samples_is_found(data: Path) -> None:
    def spoil(content: bytearray) -> None:
        content[content.index(b'{"id"')] = ord("[")

    resealed(data, spoil)
    assert rules(verify(str(data))) == {("clip-0", "json")}


def test_wrong_offsets_are_found_and_the_other_samples_are_still_checked(data: Path) -> None:
    first = read_manifest(data).samples[0]
    with_first_row(data, offset_bytes=512, size_bytes=first.size_bytes - 512)
    found = verify(str(data))
    assert rules(found) == {("clip-0", "offset"), ("clip-0", "tar")}


def test_missing_and_unlisted_shards_and_other_sizes_are_found(data: Path) -> None:
    path = data / "shards" / SHARD
    path.rename(data / "shards" / "shard-000009.tar")
    assert {(finding.shard, finding.rule) for finding in verify(str(data)).findings} == {
        (SHARD, "missing"),
        ("shard-000009.tar", "unlisted"),
    }
    content = (data / "shards" / "shard-000009.tar").read_bytes()
    path.write_bytes(content + bytes(512))
    assert ("", "size") in rules(verify(str(data)))
    path.write_bytes(content[: len(content) // 2])
    assert {("", "size"), ("clip-2", "offset")} <= rules(verify(str(data)))


def test_bytes_after_the_end_and_a_missing_end_are_found(data: Path) -> None:
    resealed(data, lambda content: content.extend(b"x".ljust(512, b"\0")))
    assert rules(verify(str(data))) == {("", "end")}
    last = read_manifest(data).samples[-1]
    resealed(data, lambda content: content.__delitem__(slice(last.offset_bytes + last.size_bytes, None)))
    assert rules(verify(str(data))) == {("", "end")}


def test_a_damaged_manifest_and_failures_are_findings_but_no_dataset_is_a_mistake(data: Path, tmp_path: Path) -> None:
    (data / "failures.parquet").write_bytes(b"PAR1")
    assert rules(verify(str(data))) == {("", "failures")}
    path = data / "manifest.parquet"
    content = bytearray(path.read_bytes())
    for place in range(0, len(content), 97):
        path.write_bytes(content[:place])
        assert rules(verify(str(data))) == {("", "manifest")}
    with pytest.raises(FileNotFoundError, match="vamba ingest"):
        verify(str(tmp_path / "nowhere"))


def test_several_processes_find_the_same(tmp_path: Path) -> None:
    root = tmp_path / "data"
    manifest = write_dataset(root, samples())
    copies = [replace(manifest.shards[0], name=f"shard-{index:06d}.tar") for index in range(3)]
    rows = [
        replace(row, id=row.id if index == 0 else f"other-{index}-{row.id}", shard=copies[index].name)
        for index in range(3)
        for row in manifest.samples
    ]
    for copy in copies[1:]:
        (root / "shards" / copy.name).write_bytes((root / "shards" / SHARD).read_bytes())
    write_manifest(root, replace(manifest, shards=tuple(copies), samples=tuple(rows)))
    one, several = (verify(str(root), num_processes=number) for number in (1, 2))
    assert one == several and {finding.rule for finding in one.findings} == {"members"} and len(one.findings) == 6
    with pytest.raises(ValueError, match="--jobs is -1"):
        verify(str(root), num_processes=-1)
