"""The same run in one, two and four processes, and continued in another number of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, replicated, tiny_config, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

NUM_STEPS = 10
# Shifts all scores of a query alike, so its gradient is rounding noise, which Adam scales to full steps.
WITHOUT_GRADIENT = "cross_attn.k_proj.bias"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    """Every run of this module, in as few groups of processes as can be: starting one costs seconds."""
    root = tmp_path_factory.mktemp("worlds")
    samples = [make_sample(i, num_frames=2 + i % 5) for i in range(24)]
    write_dataset(root / "data", samples)
    configs = {
        name: tiny_config(root / "data", root, name, num_steps=NUM_STEPS)
        for name in ("one", "two", "four", "two-to-two", "two-to-one", "two-to-four", "two-by-two")
    }
    configs["two-by-two"] = replicated(configs["two-by-two"], 2)
    fresh = {name: Job(config=configs[name]) for name in ("one", "two", "four", "two-by-two")}
    for job in fresh.values():
        open_run(job.config)
    resumed = {
        name: Job(config=configs[name], resume_from="two", step=5)
        for name in ("two-to-two", "two-to-one", "two-to-four")
    }
    train(2, fresh["two"], resumed["two-to-two"], scratch=root)
    train(1, fresh["one"], resumed["two-to-one"], scratch=root)
    train(4, resumed["two-to-four"], fresh["two-by-two"], fresh["four"], scratch=root)
    return {name: run_directory(str(root), name) for name in configs}


def losses(directory: RunDirectory) -> dict[int, float]:
    return {record["step"]: record["loss"] for _, record in directory.read_metrics()}


def weights(directory: RunDirectory) -> dict[str, torch.Tensor]:
    return dict(load_file(directory.model / "model.safetensors"))


@pytest.mark.parametrize("name", ["two", "two-by-two", "four"])
def test_sharded_training_equals_one_process(runs: dict[str, RunDirectory], name: str) -> None:
    assert losses(runs[name]) == pytest.approx(losses(runs["one"]), rel=1e-6)
    reference, sharded = weights(runs["one"]), weights(runs[name])
    assert reference.keys() == sharded.keys()
    compared = [key for key in reference if not key.endswith(WITHOUT_GRADIENT)]
    difference = torch.cat([(reference[key] - sharded[key]).flatten() for key in compared])
    assert difference.norm() / torch.cat([reference[key].flatten() for key in compared]).norm() < 1e-6


@pytest.mark.parametrize("name", ["two", "two-by-two"])
def test_what_a_step_tells_of_itself_does_not_depend_on_sharding(runs: dict[str, RunDirectory], name: str) -> None:
    """Norms by group are of the whole gradient, and operations those of the global batch."""
    sharded = dict(_told(runs[name]))
    for step, (flops, norms, alphas) in _told(runs["one"]):
        assert sharded[step][0] == flops > 0
        assert sharded[step][1] == pytest.approx(norms, rel=1e-4), step
        assert sharded[step][2] == pytest.approx(alphas, rel=1e-5), step


def _told(directory: RunDirectory) -> list[tuple[int, tuple[float, dict[str, float], list[float]]]]:
    records = [record for _, record in directory.read_metrics() if record["step"] <= NUM_STEPS]
    return [(record["step"], (record["flops"], record["grad_norms"], record["alphas"])) for record in records]


def test_resuming_at_the_same_world_size_is_bit_identical(runs: dict[str, RunDirectory]) -> None:
    undisturbed = {step: loss for step, loss in losses(runs["two"]).items() if step > 5}
    assert losses(runs["two-to-two"]) == undisturbed
    resumed = weights(runs["two-to-two"])
    assert all(value.equal(resumed[key]) for key, value in weights(runs["two"]).items())


@pytest.mark.parametrize("name", ["two-to-one", "two-to-four"])
def test_resuming_at_another_world_size_continues_the_curve(runs: dict[str, RunDirectory], name: str) -> None:
    undisturbed = {step: loss for step, loss in losses(runs["two"]).items() if step > 5}
    assert losses(runs[name]) == pytest.approx(undisturbed, rel=1e-6)


def test_every_world_size_sees_the_same_samples(runs: dict[str, RunDirectory]) -> None:
    def samples(directory: RunDirectory) -> dict[int, list[str]]:
        return {record["step"]: record["sample_ids"] for _, record in directory.read_metrics()}

    assert samples(runs["two"]) == samples(runs["one"]) == samples(runs["two-by-two"])


def test_a_finished_run_can_be_prolonged(runs: dict[str, RunDirectory]) -> None:
    directory = runs["one"]
    config = tiny_config(directory.root.parents[1] / "data", directory.root.parents[1], "one", num_steps=NUM_STEPS)
    longer = replace(config, train=replace(config.train, num_steps=NUM_STEPS + 2))
    open_run(longer)
    train(1, Job(config=longer), scratch=directory.root)
    assert max(losses(run_directory(config.storage, "one"))) == NUM_STEPS + 2


def test_scratch_files_are_gone(runs: dict[str, RunDirectory]) -> None:
    leftovers = [path for directory in runs.values() for path in Path(directory.root).rglob("*.tmp")]
    assert not leftovers
