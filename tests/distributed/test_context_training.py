"""Runs whose packs are shared by two ranks, in one group and in two, against one process; stopped and continued.

Packs are videos of several lengths and images, some of them too short for two ranks; one group has a placeholder.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import read_evaluations
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from tests.distributed.test_layouts import image
from vamba.parallel.config import ParallelConfig

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_STEPS = 4
CONTEXT = ParallelConfig(context=2)


def config_of(root: Path, name: str) -> TrainingConfig:
    """Five packs a step, evaluated twice; every other step is saved."""
    config = tiny_config(root / "data", root, name, num_steps=NUM_STEPS, every=2)
    parallel = ParallelConfig() if name.startswith("one") else CONTEXT
    if name == "short-chunks":
        parallel = replace(CONTEXT, stream_chunk_tokens=7, activation="layer")
    return replace(
        config,
        plan=replace(config.plan, packs_per_step=5),
        train=replace(config.train, evaluate_every_steps=2),
        model=replace(config.model, overrides={"vision_mamba_mixer_config": {"chunk_size": 8}}),
        parallel=parallel,
    )


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("context")
    videos = [make_sample(i, num_frames=2 + i % 7, side=56 + 28 * (i % 2)) for i in range(16)]
    held_out = [make_sample(i, num_frames=6, split="validation") for i in range(40, 43)]
    write_dataset(root / "data", [*videos, *(image(i) for i in range(16, 28)), *held_out])
    configs = {name: config_of(root, name) for name in NAMES}
    for name in ("one", "two", "four", "short-chunks"):
        open_run(configs[name])
    fresh = {name: Job(config=configs[name]) for name in ("one", "two", "four", "short-chunks")}
    resumed = {name: Job(config=configs[name], resume_from="two", step=2) for name in ("one-resumed", "two-resumed")}
    train(2, fresh["two"], fresh["short-chunks"], resumed["two-resumed"], scratch=root)
    train(1, fresh["one"], resumed["one-resumed"], scratch=root)
    train(4, fresh["four"], scratch=root)
    return {name: run_directory(str(root), name) for name in configs}


NAMES = ("one", "two", "four", "short-chunks", "one-resumed", "two-resumed")


def of_steps(run: RunDirectory, key: str) -> dict[int, float]:
    return {record["step"]: record[key] for _, record in run.read_metrics()}


@pytest.mark.parametrize("name", ["two", "four", "short-chunks"])
def test_ranks_that_share_packs_train_as_one_process_does(runs: dict[str, RunDirectory], name: str) -> None:
    one, shared = runs["one"], runs[name]
    assert list(of_steps(one, "loss")) == list(range(1, NUM_STEPS + 1))
    assert of_steps(shared, "loss") == pytest.approx(of_steps(one, "loss"), rel=1e-6)
    assert of_steps(shared, "grad_norm") == pytest.approx(of_steps(one, "grad_norm"), rel=1e-4)
    assert sum(of_steps(shared, "num_streamed_packs").values()) > 0


@pytest.mark.parametrize("key", ["num_loss_tokens", "num_text_tokens", "num_video_tokens", "flops", "sample_ids"])
def test_a_shared_pack_counts_once(runs: dict[str, RunDirectory], key: str) -> None:
    assert of_steps(runs["two"], key) == of_steps(runs["four"], key) == of_steps(runs["one"], key)


def test_evaluations_do_not_depend_on_who_shares_packs(runs: dict[str, RunDirectory]) -> None:
    one, two = read_evaluations(runs["one"]), read_evaluations(runs["two"])
    assert list(one) == [2, 4]
    assert two == pytest.approx(one, rel=1e-6)


def test_a_run_is_continued_bit_for_bit_and_by_a_process_of_its_own(runs: dict[str, RunDirectory]) -> None:
    later = {step: loss for step, loss in of_steps(runs["two"], "loss").items() if step > 2}
    assert of_steps(runs["two-resumed"], "loss") == later
    assert of_steps(runs["one-resumed"], "loss") == pytest.approx(later, rel=1e-6)
