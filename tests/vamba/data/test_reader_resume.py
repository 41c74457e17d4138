"""Stop anywhere, go on with any number of ranks: the same global batches, each sample and each byte once an epoch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.vamba.data.shards import CONFIG, Shards, encoder, write_shards
from vamba.data.plan import DataPlan, PlanState
from vamba.data.reader import PackReader, StepInput
from vamba.data.reader_config import ReaderConfig

ENCODE = encoder()


@dataclass(frozen=True)
class Attempt:
    """One start of a job: so many ranks, so many steps until it is killed, so far ahead."""

    world_size: int
    num_steps: int
    prefetch_steps: int
    prefetch_bytes: int
    decode_workers: int

    @property
    def config(self) -> ReaderConfig:
        return replace(
            CONFIG, prefetch_steps=self.prefetch_steps, prefetch_bytes=self.prefetch_bytes,
            decode_workers=self.decode_workers,
        )  # fmt: skip


ATTEMPTS = st.builds(
    Attempt,
    world_size=st.sampled_from([1, 2, 3, 4]),
    num_steps=st.integers(0, 9),
    prefetch_steps=st.integers(1, 5),
    prefetch_bytes=st.sampled_from([1, 50_000, 1 << 30]),
    decode_workers=st.integers(0, 2),
)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    return write_shards(tmp_path_factory.mktemp("shards"))


def run(shards: Shards, plan: DataPlan, state: PlanState, attempt: Attempt) -> tuple[list[list[StepInput]], PlanState]:
    """The steps of one attempt, each as all its ranks have it, and where it was stopped."""
    readers = [
        PackReader(
            plan, shards.rows, shards.read_range, ENCODE,
            state=state, rank=rank, world_size=attempt.world_size, config=attempt.config,
        )
        for rank in range(attempt.world_size)
    ]  # fmt: skip
    steps = []
    for _ in range(attempt.num_steps):
        taken = [next(reader) for reader in readers]
        assert len({after for _, after in taken}) == 1
        state = taken[0][1]
        steps.append([inputs for inputs, _ in taken])
    for reader in readers:  # with whatever is being read and decoded ahead
        reader.close()
    return steps, state


def packs_of(step: list[StepInput]) -> dict[int, tuple[tuple[str, ...], bytes]]:
    """The packs of a global batch that count: samples and pixels by number, from whichever rank had them."""
    packs: dict[int, tuple[tuple[str, ...], bytes]] = {}
    for inputs in step:
        for micro in inputs.micro_batches:
            if micro.counts:
                assert micro.pack_index not in packs
                assert micro.batch.patches_PC is not None
                packs[micro.pack_index] = (micro.batch.sample_ids, micro.batch.patches_PC.numpy().tobytes())
    return packs


def planned(plan: DataPlan, num_steps: int) -> list[tuple[int, dict[int, tuple[str, ...]]]]:
    """(epoch, pack number -> samples) of the first steps."""
    state, steps = plan.start(), []
    for _ in range(num_steps):
        packs = plan.step_at(state).packs
        steps.append((state.epoch, {pack.index: tuple(plan.items[i].id for i in pack.items) for pack in packs}))
        state = plan.advance(state)
    return steps


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(attempts=st.lists(ATTEMPTS, min_size=1, max_size=5), seed=st.integers(0, 5), packs_per_step=st.integers(1, 4))
def test_any_sequence_of_kills_and_world_sizes_gives_the_plan(
    shards: Shards, attempts: list[Attempt], seed: int, packs_per_step: int
) -> None:
    plan = shards.plan(seed=seed, packs_per_step=packs_per_step)
    steps: list[list[StepInput]] = []
    state = plan.start()
    for attempt in attempts:
        done, state = run(shards, plan, state, attempt)
        steps += done
    assert state.step == len(steps)
    expected = planned(plan, len(steps))
    pixels = _undisturbed_pixels(shards)
    used: dict[int, Counter[str]] = {}
    for step, (epoch, packs) in zip(steps, expected, strict=True):
        found = packs_of(step)
        assert {index: ids for index, (ids, _) in found.items()} == packs
        assert all(content == b"".join(pixels[name] for name in ids) for ids, content in found.values())
        assert all(inputs.sample_ids == tuple(i for ids in packs.values() for i in ids) for inputs in step)
        used.setdefault(epoch, Counter()).update(name for ids, _ in found.values() for name in ids)
    for epoch in range(state.epoch):  # the finished ones
        assert used[epoch] == Counter(row.id for row in shards.rows)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_an_epoch_reads_every_byte_once(shards: Shards, world_size: int) -> None:
    plan = shards.plan()
    num_steps = len(plan.steps(0))
    attempt = Attempt(
        world_size=world_size, num_steps=num_steps, prefetch_steps=1, prefetch_bytes=1 << 30, decode_workers=0
    )
    shards.reads.clear()
    steps, _ = run(shards, plan, plan.start(), attempt)
    assert sum(len(packs_of(step)) for step in steps) == sum(len(step.packs) for step in plan.steps(0))
    read = Counter((shard, at) for shard, offset, length in shards.reads for at in range(offset, offset + length))
    wanted = Counter(
        (row.shard, at) for row in shards.rows for at in range(row.offset_bytes, row.offset_bytes + row.size_bytes)
    )
    assert read == wanted


def test_a_process_killed_while_it_reads_ahead_loses_nothing(tmp_path: Path) -> None:
    """SIGKILL with reads and decodes under way; what continues has only the last state that was printed."""
    shards = write_shards(tmp_path)
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from tests.vamba.data.shards import CONFIG, encoder, write_shards\n"
        "from vamba.data.reader import PackReader\n"
        "shards = write_shards(Path(sys.argv[1]))\n"
        "plan = shards.plan()\n"
        "reader = PackReader(plan, shards.rows, shards.read_range, encoder(), state=plan.start(), config=CONFIG)\n"
        "for inputs, state in reader:\n"
        "    print(json.dumps([inputs.sample_ids, state.to_dict()]), flush=True)\n"
    )
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    lines = [json.loads(process.stdout.readline()) for _ in range(3)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    plan = shards.plan()
    attempt = Attempt(world_size=2, num_steps=6, prefetch_steps=2, prefetch_bytes=1 << 30, decode_workers=1)
    steps, _ = run(shards, plan, PlanState.from_dict(lines[-1][1]), attempt)
    ids = [tuple(line[0]) for line in lines] + [step[0].sample_ids for step in steps]
    assert ids == [tuple(i for p in packs.values() for i in p) for _, packs in planned(plan, len(ids))]


_PIXELS: dict[str, bytes] = {}


def _undisturbed_pixels(shards: Shards) -> dict[str, bytes]:
    for row in shards.rows:
        if row.id not in _PIXELS:
            encoded = ENCODE(shards.read_range(row.shard, row.offset_bytes, row.size_bytes))
            assert encoded.patches is not None
            _PIXELS[row.id] = encoded.patches.tobytes()
    return _PIXELS
