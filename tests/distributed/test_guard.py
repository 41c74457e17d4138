"""Two ranks skip, go back and evaluate as one does, and a run continues through it in another number of them."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest

from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrainingConfig
from pipelines.training.evaluations import read_evaluations
from pipelines.training.retention import Retention
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from tests.distributed.trouble import troubled_losses
from vamba.train.config import EvaluationConfig, GuardConfig

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:torch.distributed is disabled"),
]

TROUBLE = {2: math.nan, 7: 50.0}
GUARD = GuardConfig(window_steps=8, min_observations=3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("guard")
    write_dataset(root / "data", [make_sample(i, split="train" if i < 24 else "validation") for i in range(34)])

    def config_of(name: str, *, every: int = 4) -> TrainingConfig:
        config = tiny_config(root / "data", root, name, num_steps=10, every=every)
        evaluation = EvaluationConfig(max_packs=8)
        settings = replace(config.train, guard=GUARD, evaluate_every_steps=every, evaluation=evaluation)
        # Some runs leave units gathered after a forward pass; an evaluation has no backward pass that lets them go.
        parallel = replace(config.parallel, reshard_after_forward=every == 4)
        return replace(config, train=settings, parallel=parallel, checkpoints=Retention(keep_last=4))

    fresh = {name: Job(config=config_of(name)) for name in ("two", "one")}
    early = {name: Job(config=config_of(name, every=8)) for name in ("two-early", "one-early")}
    for job in (*fresh.values(), *early.values()):
        open_run(job.config)
    resumed = {name: Job(config=config_of(name), resume_from="two", step=4) for name in ("two-to-two", "two-to-one")}
    train(
        2,
        fresh["two"],
        resumed["two-to-two"],
        early["two-early"],
        scratch=root,
        within=partial(troubled_losses, TROUBLE),
    )
    train(
        1,
        fresh["one"],
        resumed["two-to-one"],
        early["one-early"],
        scratch=root,
        within=partial(troubled_losses, TROUBLE),
    )
    return {name: run_directory(str(root), name) for name in (*fresh, *early, *resumed)}


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
    assert losses(runs["two-to-two"]) == undisturbed
    assert events(runs["two-to-two"], "rewound")[0]["to"] == 4
    del undisturbed[7]
    assert losses(runs["two-to-one"], without=(7,)) == pytest.approx(undisturbed, rel=1e-6)
    guards = [CheckpointStore(runs[name].checkpoints).committed()[-1].meta["guard"] for name in ("two", "two-to-two")]
    assert guards[0] == guards[1]


def test_before_the_first_checkpoint_it_goes_back_to_the_start(runs: dict[str, RunDirectory]) -> None:
    for name in ("two-early", "one-early"):
        assert [(event["at"], event["to"]) for event in events(runs[name], "rewound")] == [(7, 0)]
    assert losses(runs["two-early"], without=(2, 7)) == pytest.approx(
        losses(runs["one-early"], without=(2, 7)), rel=1e-6
    )
