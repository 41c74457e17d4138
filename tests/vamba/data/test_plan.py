"""The data plan: complete, balanced, within budget, and the same for every world size."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distributed.dataset import make_sample
from tests.vamba.data.shards import row_of
from vamba.data.frames import FrameProcessing, num_video_tokens
from vamba.data.plan import DataPlan, PlanConfig, PlanItem, PlanState
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.sample_table import PlacedSample, SampleTable


def items_of(costs: list[int], media: str = "video") -> list[PlanItem]:
    return [PlanItem(id=f"s-{i}", media=media, cost_tokens=cost) for i, cost in enumerate(costs)]


@st.composite
def plans(draw: st.DrawFn) -> DataPlan:
    budget = draw(st.integers(50, 400))
    costs = draw(st.lists(st.integers(1, budget), min_size=1, max_size=120))
    kinds = draw(st.lists(st.sampled_from(["video", "image"]), min_size=len(costs), max_size=len(costs)))
    items = [PlanItem(id=f"s-{i}", media=m, cost_tokens=c) for i, (c, m) in enumerate(zip(costs, kinds, strict=True))]
    config = PlanConfig(
        tokens_per_pack=budget,
        samples_per_pack=draw(st.none() | st.integers(1, 4)),
        packs_per_step=draw(st.integers(1, 5)),
        window_samples=draw(st.integers(4, 64)),
    )
    return DataPlan(items, config, seed=draw(st.integers(0, 99)))


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(0, 3))
def test_every_sample_is_used_once_an_epoch_within_the_budget(plan: DataPlan, epoch: int) -> None:
    packs = [(step.media, pack) for step in plan.steps(epoch) for pack in step.packs]
    used = Counter(item for _, pack in packs for item in pack.items)
    assert used == Counter(range(len(plan.items)))
    for media, pack in packs:
        assert pack.items
        assert {plan.items[item].media for item in pack.items} == {media}
        assert pack.cost_tokens == sum(plan.items[item].cost_tokens for item in pack.items)
        assert pack.cost_tokens <= plan.config.tokens_per_pack
        assert len(pack.items) <= (plan.config.samples_per_pack or len(pack.items))
    assert [pack.index for _, pack in packs] == list(range(len(packs)))


@settings(max_examples=60, deadline=None)
@given(plans())
def test_a_step_is_short_only_when_its_medium_has_too_few_samples(plan: DataPlan) -> None:
    for step in plan.steps(0):
        if len(step.packs) < plan.config.packs_per_step:
            same_medium = [s for s in plan.steps(0) if s.media == step.media]
            assert all(len(pack.items) == 1 for s in same_medium for pack in s.packs)


@settings(max_examples=60, deadline=None)
@given(plans(), st.integers(1, 6))
def test_ranks_share_a_step_completely_and_in_equal_numbers(plan: DataPlan, world_size: int) -> None:
    for step in plan.steps(0):
        shares = [step.share(rank, world_size) for rank in range(world_size)]
        assert len({len(share) for share in shares}) == 1
        counted = sorted(pack.index for share in shares for pack, counts in share if counts)
        assert counted == sorted(pack.index for pack in step.packs)


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(0, 40))
def test_the_state_alone_finds_the_same_next_step(plan: DataPlan, num_steps: int) -> None:
    state = plan.start()
    for _ in range(num_steps):
        state = plan.advance(state)
    twin = DataPlan(plan.items, plan.config, seed=plan.seed)
    assert twin.step_at(PlanState.from_dict(state.to_dict())) == plan.step_at(state)
    assert state.step == num_steps


def test_epochs_and_seeds_differ_and_repeat() -> None:
    items = items_of([10 + i % 7 for i in range(200)])
    config = PlanConfig(tokens_per_pack=100, packs_per_step=2)
    plan, twin, other = (DataPlan(items, config, seed=seed) for seed in (1, 1, 2))
    assert plan.steps(0) == twin.steps(0)
    assert plan.steps(0) != plan.steps(1)
    assert plan.steps(0) != other.steps(0)


def test_the_order_never_changes_between_versions() -> None:
    """A change here breaks the resume of every existing run: raise PLAN_VERSION with it."""
    plan = DataPlan(items_of([5, 9, 3, 7, 4, 8, 6, 2]), PlanConfig(tokens_per_pack=12, packs_per_step=2), seed=3)
    packs = [[pack.items for pack in step.packs] for step in plan.steps(0)]
    assert packs == [[(1, 2), (5, 4)], [(3, 0), (6, 7)]]
    assert plan.fingerprint == "sha256:3187f202d76958245ea3c461b491e1fe"


def test_realistic_lengths_fill_the_budget_and_balance_the_ranks() -> None:
    import numpy as np

    lengths = np.clip(np.exp(np.random.default_rng(0).normal(8.5, 1.2, 20_000)), 200, 120_000).astype(int)
    plan = DataPlan(items_of(lengths.tolist()), PlanConfig(tokens_per_pack=131_072, packs_per_step=32), seed=0)
    assert plan.fill(0) > 0.99
    assert plan.imbalance(0) < 1.02


def test_one_sample_a_pack_makes_a_step_a_batch_of_so_many_samples() -> None:
    plan = DataPlan(
        items_of([7, 3, 9, 5, 8, 2, 6]), PlanConfig(tokens_per_pack=100, samples_per_pack=1, packs_per_step=3), seed=0
    )
    assert sorted(sum(len(pack.items) for pack in step.packs) for step in plan.steps(0)) == [1, 3, 3]


def test_a_limit_that_is_not_set_leaves_the_fingerprint_alone() -> None:
    """It is the one that runs have recorded which began before the limit existed."""
    config = PlanConfig(tokens_per_pack=12, packs_per_step=2)
    plan, limited = (DataPlan(items_of([5, 9]), c, seed=3) for c in (config, replace(config, samples_per_pack=1)))
    assert plan.fingerprint == "sha256:acdc5511fe9bd82bf3fe81f5afaade38"
    assert limited.fingerprint != plan.fingerprint


def test_another_plan_refuses_the_state_and_says_why() -> None:
    config = PlanConfig(tokens_per_pack=100, packs_per_step=2)
    state = DataPlan(items_of([10, 20]), config, seed=0).start()
    with pytest.raises(ValueError, match="Restore the dataset"):
        DataPlan(items_of([10, 21]), config, seed=0).step_at(state)


def test_a_sample_above_the_budget_is_named() -> None:
    with pytest.raises(ValueError, match="'s-1' with 101"):
        DataPlan(items_of([10, 101]), PlanConfig(tokens_per_pack=100), seed=0)


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(ValueError, match="no sample"):
        DataPlan([], PlanConfig(), seed=0)


_PROGRAM = """
import hashlib, json
from tests.vamba.data.test_plan import mixed_plan
plan = mixed_plan()
order = [[step.media, [pack.items for pack in step.packs]] for epoch in (0, 7) for step in plan.steps(epoch)]
print(plan.fingerprint, hashlib.sha256(json.dumps(order).encode()).hexdigest())
"""


def mixed_plan() -> DataPlan:
    items = [
        PlanItem(id=f"s-{i}", media=("video", "image", "video")[i % 3], cost_tokens=1 + (i * 7919) % 97)
        for i in range(2000)
    ]
    return DataPlan(items, PlanConfig(tokens_per_pack=100, packs_per_step=3, window_samples=256), seed=11)


def test_every_process_plans_alike_whatever_its_hash_seed() -> None:
    root = Path(__file__).parents[3]
    found = {
        subprocess.run(
            [sys.executable, "-c", _PROGRAM], cwd=root, check=True, capture_output=True, text=True,
            env={**os.environ, "PYTHONPATH": str(root), "PYTHONHASHSEED": hash_seed},
        ).stdout
        for hash_seed in ("0", "1")
    }  # fmt: skip
    assert len(found) == 1


def test_columns_and_rows_plan_alike() -> None:
    """Frame caps, odd numbers of frames, several sizes: the cost of a column is that of each row by itself."""
    rows = [
        replace(
            row_of(make_sample(i), "shard-000000.tar", 1000 * i, 1000),
            media=("video", "image")[i % 2], num_frames=1 + i * 13 % 300, width=(640, 1920, 56)[i % 3],
            height=(360, 1080, 56)[i % 3], num_conversations=1 + i % 4,
        )
        for i in range(60)
    ]  # fmt: skip
    config = ReaderConfig(max_frames=200, max_patches=120_000, frames=FrameProcessing(longest_edge=1280))
    table = SampleTable(rows)
    for index, row in enumerate(rows):
        frames = config.num_frames(row.num_frames, row.width, row.height)
        cost = num_video_tokens(frames, row.width, row.height, config.frames) + row.num_conversations * 64
        assert plan_items(rows, config)[index] == PlanItem(id=row.id, media=row.media, cost_tokens=cost)
        assert all(getattr(table[index], field) == getattr(row, field) for field in PlacedSample.__slots__)
    assert list(plan_items(table, config)) == list(plan_items(rows, config))
    assert [row.id for row in table[3:5]] == [rows[3].id, rows[4].id]


def test_an_epoch_of_steps_is_a_sequence() -> None:
    steps = mixed_plan().steps(0)
    assert steps[-1] == steps[len(steps) - 1] == list(steps)[-1]
    assert list(steps[2:4]) == [steps[2], steps[3]]
    with pytest.raises(IndexError):
        steps[len(steps)]
