"""Two ranks skip, go back and evaluate as one does, and a run continues through it in another number of them."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import read_evaluations
from pipelines.training.retention import Retention
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, resume_from, tiny_config, train
from vamba.train.config import EvaluationConfig, GuardConfig

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]

TROUBLE = {2: math.nan, 7: 50.0}
GUARD = GuardConfig(window_steps=8, min_observations=3)


@contextmanager
def troubled_losses() -> Iterator[None]:
    """Losses of the steps in TROUBLE are multiplied by what stands there, on the last rank alone."""
    import torch.distributed as dist

    from vamba.train import loop

    train_step = loop.train_step
    is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1

    def troubled(state: Any, inputs: Any, *, stop: bool = False) -> Any:
        plain, factor = state.model.loss, TROUBLE.get(state.step + 1, 1.0) if is_last else 1.0
        state.model.loss = lambda batch: (plain(batch)[0] * factor, batch.num_loss_tokens)
        try:
            return train_step(state, inputs, stop=stop)
        finally:
            state.model.loss = plain

    loop.train_step = troubled  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.train_step = train_step


def process(rank: int, world_size: int, rendezvous: str, configs: tuple[TrainingConfig, ...]) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    with troubled_losses():
        for config in configs:
            train(1, Job(config=config), scratch=Path(rendezvous))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    import torch.multiprocessing as mp

    root = tmp_path_factory.mktemp("guard")
    samples = [make_sample(i, split="train" if i < 24 else "validation") for i in range(34)]
    write_dataset(root / "data", samples)
    configs = {}
    for name in ("two", "one", "two-to-one", "two-again"):
        config = tiny_config(root / "data", root, name, num_steps=10, every=4)
        settings = replace(config.train, guard=GUARD, evaluate_every_steps=4, evaluation=EvaluationConfig(max_packs=8))
        configs[name] = replace(config, train=settings, checkpoints=Retention(keep_last=4))
    for name in ("two", "one"):
        open_run(configs[name])
    both = run_directory(str(root), "two")
    mp.spawn(process, args=(2, str(root / f"rendezvous-{os.urandom(4).hex()}"), (configs["two"],)), nprocs=2)
    for name in ("two-to-one", "two-again"):
        resume_from(both, configs[name], 4)
    mp.spawn(process, args=(2, str(root / f"rendezvous-{os.urandom(4).hex()}"), (configs["two-again"],)), nprocs=2)
    with troubled_losses():
        train(1, Job(config=configs["one"]), Job(config=configs["two-to-one"]), scratch=root)
    return {name: run_directory(str(root), name) for name in configs}


def records(directory: RunDirectory) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for _, record in directory.read_metrics()}


def losses(directory: RunDirectory, *, without: tuple[int, ...] = ()) -> dict[int, float]:
    return {step: record["loss"] for step, record in records(directory).items() if step not in without}


def events(directory: RunDirectory, name: str) -> list[dict[str, Any]]:
    return [event for event in directory.read_events() if event["event"] == name]


@pytest.mark.parametrize("name", ["one", "two"])
def test_trouble_on_one_rank_is_skipped_and_gone_back_from_by_all(runs: dict[str, RunDirectory], name: str) -> None:
    directory = runs[name]
    skipped = {step: record["skipped"] for step, record in records(directory).items() if record["skipped"]}
    assert skipped == {2: "non_finite", 7: "spike"}
    assert [(event["step"], event["reason"]) for event in events(directory, "step_skipped")] == list(skipped.items())
    (rewound,) = events(directory, "rewound")
    assert (rewound["at"], rewound["to"]) == (7, 4)
    assert rewound["samples"] == {str(step): records(directory)[step]["sample_ids"] for step in (5, 6, 7)}
    assert [checkpoint.step for checkpoint in CheckpointStore(directory.checkpoints).committed()] == [4, 7, 8, 10]


def test_two_ranks_end_where_one_does(runs: dict[str, RunDirectory]) -> None:
    # The spike itself is larger where both packs of a step are on the last rank.
    assert losses(runs["two"], without=(2, 7)) == pytest.approx(losses(runs["one"], without=(2, 7)), rel=1e-6)
    assert read_evaluations(runs["two"]) == pytest.approx(read_evaluations(runs["one"]), rel=1e-6)
    assert list(read_evaluations(runs["two"])) == [4, 8]


def test_resumed_before_the_spike_it_goes_back_to_the_same_step(runs: dict[str, RunDirectory]) -> None:
    undisturbed = {step: loss for step, loss in losses(runs["two"]).items() if step > 4}
    assert losses(runs["two-again"]) == undisturbed
    assert events(runs["two-again"], "rewound")[0]["to"] == 4
    resumed = {step: loss for step, loss in losses(runs["two-to-one"], without=(7,)).items()}
    del undisturbed[7]
    assert resumed == pytest.approx(undisturbed, rel=1e-6)
    guards = [CheckpointStore(runs[name].checkpoints).committed()[-1].meta["guard"] for name in ("two", "two-again")]
    assert guards[0] == guards[1]
