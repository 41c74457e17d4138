"""Samples that can't be read: left out by rule, recorded, counted, and never exchanged for others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.vamba.data.shards import CONFIG, Shards, encoder, write_shards
from vamba.data.fetch import UnreadableSampleError
from vamba.data.manifest import SampleRow
from vamba.data.reader import PackReader, StepInput

ENCODE = encoder()


@pytest.fixture
def shards(tmp_path: Path) -> Shards:
    return write_shards(tmp_path, num_samples=12)


def read_epoch(
    shards: Shards, *, allowed: int, known: tuple[str, ...] = ()
) -> tuple[list[StepInput], list[tuple[str, int]]]:
    plan, found = shards.plan(), []

    def note(error: UnreadableSampleError, step: int) -> None:
        found.append((error.row.id, step))

    config = replace(CONFIG, max_unreadable_samples=allowed)
    with PackReader(
        plan, shards.rows, shards.read_range, ENCODE,
        state=plan.start(), config=config, unreadable=known, on_unreadable=note,
    ) as reader:  # fmt: skip
        return [next(reader)[0] for _ in plan.steps(0)], found


def damage_header(shards: Shards, row: SampleRow) -> None:
    shards.damage(row)


def damage_json(shards: Shards, row: SampleRow) -> None:
    shards.damage(row, at=512, what=b"[]" + b" " * 20)


def damage_jpeg(shards: Shards, row: SampleRow) -> None:
    shards.damage(row, at=row.size_bytes - 1024, what=b"\0" * 1024)


def exchange_sample(shards: Shards, row: SampleRow) -> None:
    other = shards.read_range(shards.rows[1].shard, shards.rows[1].offset_bytes, shards.rows[1].size_bytes)
    shards.damage(row, what=other[: row.size_bytes])


@pytest.mark.parametrize("damage", [damage_header, damage_json, damage_jpeg, exchange_sample])
def test_only_the_damaged_sample_is_missing(shards: Shards, damage: object) -> None:
    whole, _ = read_epoch(shards, allowed=0)
    broken = shards.rows[5]
    damage(shards, broken)  # type: ignore[operator]
    steps, found = read_epoch(shards, allowed=1)
    affected = [number for number, step in enumerate(steps) if broken.id in step.sample_ids]
    assert found == [(broken.id, affected[0] + 1)]
    for before, after in zip(whole, steps, strict=True):
        assert after.sample_ids == before.sample_ids
        assert after.unreadable == ((broken.id,) if broken.id in before.sample_ids else ())
        for intact, micro in zip(before.micro_batches, after.micro_batches, strict=True):
            rest = tuple(name for name in intact.batch.sample_ids if name != broken.id)
            assert micro.batch.sample_ids == (rest or ("placeholder",))
            assert micro.counts == bool(rest)


def test_a_pack_that_lost_everything_counts_nothing(shards: Shards) -> None:
    plan = shards.plan()
    lost = [shards.rows[item] for item in plan.steps(0)[0].packs[0].items]
    for row in lost:
        shards.damage(row)
    steps, _ = read_epoch(shards, allowed=len(lost))
    micro = steps[0].micro_batches[0]
    assert not micro.counts
    assert (micro.batch.num_loss_tokens, micro.batch.num_video_tokens) == (1, 1)
    assert set(steps[0].unreadable) == {row.id for row in lost}


def test_one_too_many_ends_the_run_and_is_named(shards: Shards) -> None:
    for row in shards.rows[3:5]:
        shards.damage(row)
    with pytest.raises(UnreadableSampleError, match=r"Sample 'clip-.*\(shard-.*at byte \d+, \d+ bytes\)") as caught:
        read_epoch(shards, allowed=1)
    assert "2; 1 are allowed" in caught.value.__notes__[0]


def test_what_earlier_attempts_found_counts(shards: Shards) -> None:
    shards.damage(shards.rows[3])
    with pytest.raises(UnreadableSampleError):
        read_epoch(shards, allowed=1, known=("elsewhere",))
    read_epoch(shards, allowed=1, known=(shards.rows[3].id,))


def test_a_missing_shard_is_its_samples_missing(shards: Shards) -> None:
    (shards.folder / "shard-000001.tar").unlink()
    lost = {row.id for row in shards.rows if row.shard == "shard-000001.tar"}
    steps, _ = read_epoch(shards, allowed=len(lost))
    assert {name for step in steps for name in step.unreadable} == lost
