"""The reader: plan order, from any position, with errors at the step they belong to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.distributed.dataset import make_sample, tar_bytes
from vamba.data.encode import SampleEncoder
from vamba.data.frames import FrameProcessing
from vamba.data.manifest import SampleRow
from vamba.data.plan import DataPlan, PlanConfig
from vamba.data.reader import PackReader
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.text import load_tokenizer

TOKENIZER = Path(__file__).parents[3] / "vamba" / "assets" / "tiny_tokenizer"
CONFIG = ReaderConfig(frames=FrameProcessing(), max_frames=4)


class Shard:
    """Nine clips in memory; counts reads."""

    def __init__(self) -> None:
        self.content = {f"clip-{i:04d}": tar_bytes(make_sample(i, num_frames=3 + i % 4)) for i in range(9)}
        self.reads: list[str] = []
        self.rows = [self._row(name, number) for number, name in enumerate(self.content)]

    def _row(self, name: str, number: int) -> SampleRow:
        sample = make_sample(number, num_frames=3 + number % 4)
        return SampleRow(
            id=name, shard=name, offset_bytes=0, size_bytes=len(self.content[name]), split="train", media="video",
            duration_ns=sample.duration_ns, num_frames=len(sample.frames), width=56, height=56, num_conversations=1,
            source_uri=sample.source_uri, source_digest=sample.source_digest,
        )  # fmt: skip

    def read_range(self, shard: str, offset: int, length: int) -> bytes:
        self.reads.append(shard)
        return self.content[shard][offset : offset + length]


@pytest.fixture(scope="module")
def encode() -> SampleEncoder:
    return SampleEncoder(load_tokenizer(TOKENIZER), CONFIG)


def plan_of(shard: Shard) -> DataPlan:
    return DataPlan(plan_items(shard.rows, CONFIG), PlanConfig(tokens_per_pack=200, packs_per_step=2), seed=5)


def test_steps_come_in_plan_order_and_a_state_continues_them(encode: SampleEncoder) -> None:
    shard = Shard()
    plan = plan_of(shard)
    reader = PackReader(plan, shard.rows, shard.read_range, encode, state=plan.start())
    first = [next(reader) for _ in range(7)]
    reader.close()
    expected, state = [], plan.start()
    for _ in range(7):
        step = plan.step_at(state)
        expected.append(tuple(plan.items[item].id for pack in step.packs for item in pack.items))
        state = plan.advance(state)
    assert [inputs.sample_ids for inputs, _ in first] == expected

    resumed = PackReader(plan, shard.rows, shard.read_range, encode, state=first[3][1])
    again = [next(resumed) for _ in range(3)]
    resumed.close()
    for (inputs, state), (replayed, replayed_state) in zip(first[4:], again, strict=True):
        assert replayed_state == state
        for micro, twin in zip(inputs.micro_batches, replayed.micro_batches, strict=True):
            assert micro.batch.input_ids_T.equal(twin.batch.input_ids_T)
            assert micro.batch.patches_PC is not None and twin.batch.patches_PC is not None
            assert micro.batch.patches_PC.equal(twin.batch.patches_PC)


def test_ranks_read_what_one_process_reads(encode: SampleEncoder) -> None:
    shard = Shard()
    plan = plan_of(shard)
    readers = [
        PackReader(plan, shard.rows, shard.read_range, encode, state=plan.start(), rank=rank, world_size=2)
        for rank in range(2)
    ]
    for _ in range(5):
        steps = [next(reader)[0] for reader in readers]
        assert steps[0].sample_ids == steps[1].sample_ids
        read = [i for step in steps for micro in step.micro_batches if micro.counts for i in micro.batch.sample_ids]
        assert sorted(read) == sorted(steps[0].sample_ids)
    for reader in readers:
        reader.close()


def test_the_cache_changes_reads_not_batches(encode: SampleEncoder) -> None:
    shard = Shard()
    plan = plan_of(shard)
    num_steps = plan.num_steps(3)

    def run(cache_bytes: int) -> tuple[list[np.ndarray], int]:
        shard.reads.clear()
        reader = PackReader(
            plan,
            shard.rows,
            shard.read_range,
            encode,
            state=plan.start(),
            config=replace(CONFIG, prefetch_steps=1, cache_bytes=cache_bytes),
        )
        batches = [micro.batch for _ in range(num_steps) for micro in next(reader)[0].micro_batches]
        reader.close()
        return [batch.input_ids_T.numpy() for batch in batches], len(shard.reads)

    plain, plain_reads = run(0)
    cached, cached_reads = run(1 << 30)
    assert all(np.array_equal(a, b) for a, b in zip(plain, cached, strict=True))
    assert cached_reads == len(shard.rows) < plain_reads


def test_a_broken_sample_is_named_and_never_replaced(encode: SampleEncoder) -> None:
    shard = Shard()
    plan = plan_of(shard)
    broken = plan.items[plan.step_at(plan.start()).packs[0].items[0]].id
    shard.content[broken] = b"\0" * 4096
    reader = PackReader(plan, shard.rows, shard.read_range, encode, state=plan.start())
    with pytest.raises(ValueError, match=f"Sample '{broken}'"):
        next(reader)
    with pytest.raises(ValueError, match=broken):
        next(reader)
    reader.close()


def test_longer_videos_are_thinned_to_the_cap(encode: SampleEncoder) -> None:
    encoded = encode(tar_bytes(make_sample(1, num_frames=11)))
    assert encoded.grid_thws == ((2, 4, 4),)
    assert encoded.patches is not None and encoded.patches.dtype == np.uint8


def test_a_budget_of_patches_is_a_number_of_frames() -> None:
    config = ReaderConfig(frames=FrameProcessing(longest_edge=1280), max_frames=1000, max_patches=120_000)
    assert config.num_frames(900, 640, 360) == 213
    assert config.num_frames(900, 1920, 1080) == config.num_frames(900, 1280, 720) == 51
    assert config.num_frames(30, 1920, 1080) == 30
    with pytest.raises(ValueError, match=r"1280x720 pixels makes 2320 patches.*2000 at most"):
        replace(config, max_patches=2000).num_frames(900, 1920, 1080)


def test_the_plan_counts_what_the_encoder_makes(encode: SampleEncoder) -> None:
    config = replace(CONFIG, max_frames=100, max_patches=20)  # 8 patches a frame of 56 x 56: two frames
    encoded = SampleEncoder(encode.tokenizer, config)(tar_bytes(make_sample(1, num_frames=11)))
    assert encoded.grid_thws == ((1, 4, 4),)
    row = replace(Shard().rows[0], num_frames=11)
    assert plan_items([row], config)[0].cost_tokens == 4 + config.text_tokens_per_conversation


@pytest.mark.parametrize(
    "make",
    [
        lambda: ReaderConfig(max_frames=0),
        lambda: ReaderConfig(prefetch_steps=0),
        lambda: ReaderConfig(max_patches=0),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], ReaderConfig]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        make()
