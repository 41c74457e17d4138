"""Streamed packs on two ranks, also as two copies, against one process that streams none.

Ranks have other numbers of chunks, and some packs of a step are streamed while others are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import read_evaluations
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from tests.distributed.test_layouts import STAGE_1, image
from vamba.parallel.config import ParallelConfig

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STEPS = 4
STREAMED = ParallelConfig(activation="streamed", streamed_above_tokens=17, stream_chunk_tokens=5)
KINDS = {
    "streamed-one": STREAMED,
    "streamed-two": STREAMED,
    "copies-two": replace(STREAMED, replicate=2, streamed_above_tokens=0),
    "bfloat-two": replace(STREAMED, compute_dtype="bfloat16", streamed_above_tokens=0),
    "layer-one": ParallelConfig(activation="layer"),
    "noticed-two": STREAMED,
}
EVALUATED = ("streamed-one", "noticed-two")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streamed")
    videos = [make_sample(i, num_frames=2 + i % 7, side=56 + 28 * (i % 2)) for i in range(16)]
    held_out = [make_sample(i, num_frames=4 + i % 5, split="validation") for i in range(28, 48)]
    write_dataset(root / "data", [*videos, *(image(i) for i in range(16, 28)), *held_out])
    return root


def config_of(root: Path, name: str) -> TrainingConfig:
    """Five packs a step: each rank sums several, and one has a placeholder. `frozen`: stage 1."""
    config = tiny_config(root / "data", root, name, num_steps=STEPS, every=STEPS)
    kind = name.removeprefix("frozen_")
    config = replace(config, plan=replace(config.plan, packs_per_step=5), parallel=KINDS[kind])
    if name != kind:
        config = replace(config, train=replace(config.train, trainable=STAGE_1))
    if name in EVALUATED:
        config = replace(config, train=replace(config.train, evaluate_every_steps=STEPS // 2))
    return config


@contextmanager
def asked_to_save_in_every_round() -> Iterator[None]:
    """As after a preemption notice that comes while an evaluation runs."""
    from pipelines.training.rank_run import RankRun

    plain = RankRun.evaluate

    def evaluate(self: RankRun, state: object) -> bool:
        save_due, self._save_due = self._save_due, lambda: self._rank == 0  # type: ignore[method-assign]
        try:
            return plain(self, state)  # type: ignore[arg-type]
        finally:
            self._save_due = save_due  # type: ignore[method-assign]

    RankRun.evaluate = evaluate  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        RankRun.evaluate = plain  # type: ignore[method-assign]


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunDirectory]:
    names = [*KINDS, "frozen_streamed-two", "frozen_layer-one"]
    jobs = {name: Job(config=config_of(root, name)) for name in names}
    for job in jobs.values():
        open_run(job.config)
    for size, count in (("one", 1), ("two", 2)):
        undisturbed = [job for name, job in jobs.items() if name.endswith(size) and not name.startswith("noticed")]
        train(count, *undisturbed, scratch=root)
    train(2, jobs["noticed-two"], scratch=root, within=asked_to_save_in_every_round)
    return {name: run_directory(str(root), name) for name in names}


def records(run: RunDirectory) -> list[dict]:  # type: ignore[type-arg]
    return [record for _, record in run.read_metrics()]


@pytest.mark.parametrize("name", ["streamed-one", "streamed-two", "copies-two", "frozen_streamed-two"])
def test_a_streamed_run_trains_as_one_that_is_not(runs: dict[str, RunDirectory], name: str) -> None:
    wanted = records(runs["frozen_layer-one" if name.startswith("frozen") else "layer-one"])
    found = records(runs[name])
    assert len(found) == len(wanted) == STEPS
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in wanted], rel=1e-6)
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in wanted], rel=1e-4)
    assert [r["sample_ids"] for r in found] == [r["sample_ids"] for r in wanted]
    # Some are streamed and some are not, in one step too; with no threshold, all are.
    packs = {r["num_streamed_packs"] for r in found}
    assert packs == {5} if name == "copies-two" else any(0 < count < 5 for count in packs)
    assert {r["num_streamed_packs"] for r in wanted} == {0}


def test_gradients_of_chunks_are_summed_in_float32(runs: dict[str, RunDirectory]) -> None:
    """In bfloat16 the first loss differs by its rounding; summed in it, norms would, too, by the number of chunks."""
    found, wanted = records(runs["bfloat-two"]), records(runs["layer-one"])
    assert [r["loss"] for r in found] == pytest.approx([r["loss"] for r in wanted], rel=2e-2)
    assert [r["grad_norm"] for r in found] == pytest.approx([r["grad_norm"] for r in wanted], rel=5e-2)


def test_a_save_within_an_evaluation_changes_neither_it_nor_what_follows(runs: dict[str, RunDirectory]) -> None:
    """A save lets the gathered units go, which the rounds that follow need again."""
    noticed, undisturbed = runs["noticed-two"], runs["streamed-one"]
    saved = [checkpoint.step for checkpoint in CheckpointStore(noticed.checkpoints).committed()]
    assert saved == [STEPS // 2, STEPS]
    assert list(read_evaluations(noticed)) == [STEPS // 2, STEPS]
    assert read_evaluations(noticed) == pytest.approx(read_evaluations(undisturbed), rel=1e-6)
    assert [r["loss"] for r in records(noticed)] == pytest.approx([r["loss"] for r in records(undisturbed)], rel=1e-6)
