"""The manifest's rules: consistent, comparable by digest, selectable by split."""

from __future__ import annotations

import dataclasses

import pytest

from vamba.data.manifest import Manifest, SampleRow, ShardRow, digest_of, sort_rows


def make_row(name: str, **changes: object) -> SampleRow:
    values: dict[str, object] = dict(
        id=name,
        shard="shard-000000.tar",
        offset_bytes=0,
        size_bytes=1024,
        split="train",
        media="video",
        duration_ns=1,
        num_frames=1,
        width=2,
        height=2,
        num_conversations=0,
        source_uri=f"/{name}.mp4",
        source_digest="sha256:" + "0" * 64,
    )
    return SampleRow(**{**values, **changes})  # type: ignore[arg-type]


SHARD = ShardRow(name="shard-000000.tar", size_bytes=10240, sha256="0" * 64, num_samples=2)


def make_manifest(*rows: SampleRow) -> Manifest:
    return Manifest(config_digest="sha256:c", shards=(SHARD,), samples=rows)


def test_digest_follows_content() -> None:
    one, two = make_row("a"), make_row("b", offset_bytes=1024)
    assert make_manifest(one, two).digest == make_manifest(one, two).digest
    assert make_manifest(one, two).digest != make_manifest(one, dataclasses.replace(two, num_frames=2)).digest


def test_what_a_dataset_is_too_old_to_have_does_not_count_in_its_digest() -> None:
    manifest = make_manifest(make_row("a"))
    document = dataclasses.asdict(manifest)
    assert document["shards"][0].pop("index_sha256") is None and document["samples"][0].pop("num_tokens") is None
    assert manifest.digest == digest_of(document)
    assert make_manifest(make_row("a", num_tokens=5)).digest != manifest.digest


def test_select_keeps_order_and_refuses_unknown_splits() -> None:
    rows = [make_row(name, split=split) for name, split in (("a", "train"), ("b", "test"), ("c", "train"))]
    manifest = make_manifest(*rows)
    assert [row.id for row in manifest.select("train")] == ["a", "c"]
    assert manifest.select("validation") == ()
    with pytest.raises(ValueError, match="train, validation, test"):
        manifest.select("dev")


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"shard": "other.tar"}, "not listed"), ({"offset_bytes": 9900}, "outside"), ({"size_bytes": 0}, "outside")],
)
def test_refuses_rows_that_point_nowhere(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_manifest(make_row("a", **changes))


def test_refuses_a_repeated_id() -> None:
    with pytest.raises(ValueError, match="two samples"):
        make_manifest(make_row("a"), make_row("a", offset_bytes=1024))


def test_rows_sort_by_shard_then_offset() -> None:
    places = (("c", "s1", 0), ("b", "s0", 9), ("a", "s0", 0))
    rows = [make_row(name, shard=shard, offset_bytes=offset) for name, shard, offset in places]
    assert [row.id for row in sort_rows(rows)] == ["a", "b", "c"]
