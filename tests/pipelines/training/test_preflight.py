"""What a run would be, counted on a fake mesh: every recipe, in one process, without memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from jobs import config as configuration
from jobs.cli.main import app
from pipelines.training.config import TrainingConfig
from pipelines.training.job import describe_run
from pipelines.training.preflight import DoesNotFitError, Preflight
from tests.distributed.dataset import make_sample, write_dataset

PRETRAIN, INSTRUCT, TOTAL = 3_018_461_404, 10_133_656_284, 11_309_837_020
RECIPES = ("pretrain", "instruct", "tiny_pretrain", "tiny_instruct")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("preflight") / "data"
    write_dataset(directory, [make_sample(i, num_frames=2 + i % 5) for i in range(64)])
    return directory


def recipe(name: str, data: Path, **sections: dict[str, object]) -> TrainingConfig:
    tree = {"name": "run", "data": str(data), "storage": str(data.parent), **sections}
    return configuration.resolve(
        TrainingConfig, [configuration.recipe_layer(name), configuration.Layer(name="test", tree=tree)]
    )


def on_32(name: str, data: Path, **parallel: object) -> Preflight:
    workers = {"num_workers": 32, "gpu_memory_gb": None}
    return describe_run(recipe(name, data, workers=workers, parallel=parallel))


@pytest.mark.parametrize(("name", "trained"), [("pretrain", PRETRAIN), ("instruct", INSTRUCT)])
def test_the_7b_recipes_lie_on_32_gpus(name: str, trained: int, data: Path) -> None:
    plan = on_32(name, data)
    assert (plan.sizes.total, plan.sizes.trainable) == (TOTAL, trained)
    parts = {part: (size, of_it) for part, size, of_it in plan.parts}
    assert sum(size for size, _ in parts.values()) == TOTAL
    assert sum(of_it for _, of_it in parts.values()) == trained
    assert parts["alpha"] == (28, 28) and parts["vision_blocks"] == (631_183_360, 0) and parts["lm_head"][1] == 0
    assert TOTAL / 32 < plan.sizes.local < TOTAL / 32 * 1.01
    names = [unit.name for unit in plan.sizes.units]
    assert names == ["root", "visual", "visual.merger", *(f"model.layers.{i}" for i in range(28)), "lm_head"]
    bytes_of = {line.name: line.size_bytes for line in plan.memory}
    assert bytes_of["master weights"] == 4 * plan.sizes.local
    assert bytes_of["optimizer state"] == 2 * bytes_of["gradients"] == 8 * plan.sizes.local_trainable
    assert plan.checkpoint_bytes == 12 * trained
    assert plan.memory_bytes < 80 << 30


def test_the_7b_recipes_are_the_papers(data: Path) -> None:
    first, second = recipe("pretrain", data), recipe("instruct", data)
    rates = [config.train.optimizer.learning_rate for config in (first, second)]
    assert rates == [1e-5, 5e-6]
    for config, batch in ((first, 16), (second, 32)):
        optimizer = config.train.optimizer
        assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.warmup_ratio) == (0.01, 1.0, 0.03)
        assert (optimizer.betas, optimizer.min_learning_rate_ratio, config.train.num_epochs) == ((0.9, 0.999), 0.0, 1)
        assert (config.plan.packs_per_step, config.plan.samples_per_pack) == (batch, 1)
        assert (config.parallel.activation, config.parallel.compute_dtype) == ("layer", "bfloat16")
        assert config.workers.num_workers == batch
    assert second.reader.max_patches == 120_000
    assert second.reader.num_frames(100_000, 640, 360) == 213
    plan = describe_run(first)
    assert plan.samples_per_step == 16 and plan.steps_per_epoch == 4


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_prints_its_plan(name: str, data: Path) -> None:
    words = ["train", name, "--data", str(data), "--name", "run", "--dry-run", "--set", f"storage={data.parent}"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    for said in (
        "master weights",
        "optimizer state",
        "layer activations",
        "tokens per step",
        "per epoch",
        "checkpoints",
    ):
        assert said in result.output
    assert not (data.parent / "runs").exists()


def test_replicas_hold_a_whole_copy_each(data: Path) -> None:
    whole, replicated = on_32("pretrain", data), on_32("pretrain", data, replicate=4)
    assert replicated.sizes.local == pytest.approx(4 * whole.sizes.local, rel=0.01)
    assert "4 replica(s) of 8 shard(s)" in replicated.rows()["mesh"]


def test_what_does_not_fit_is_refused_with_a_remedy(data: Path) -> None:
    few = recipe("instruct", data, workers={"num_workers": 2})
    with pytest.raises(
        DoesNotFitError, match=r"workers.gpu_memory_gb is 80.*gradients, not yet reduced.*one pack each"
    ):
        describe_run(few).require_fit()
    kept = recipe("instruct", data, parallel={"activation": "none"}, plan={"samples_per_pack": None})
    with pytest.raises(DoesNotFitError, match="What helps: parallel.activation=layer"):
        describe_run(kept).require_fit()
    unknown = replace(few, workers=replace(few.workers, gpu_memory_gb=None))
    describe_run(unknown).require_fit()


def test_the_command_refuses_it_too(data: Path) -> None:
    words = ["train", "instruct", "--data", str(data), "--name", "run", "--dry-run", "--set", "workers.num_workers=2"]
    result = CliRunner().invoke(app, [*words, "--set", f"storage={data.parent}"])
    assert result.exit_code == 2
    assert "What helps" in result.stderr and "gradients, not yet reduced" in result.stdout


def test_a_policy_that_does_not_exist_is_refused(data: Path) -> None:
    with pytest.raises(configuration.ConfigError, match="`parallel.activation` is 'block'"):
        recipe("instruct", data, parallel={"activation": "block"})


def test_a_streamed_run_holds_whole_units_and_stores_its_video(data: Path) -> None:
    long = {"plan": {"tokens_per_pack": 600_000, "samples_per_pack": None, "packs_per_step": 32}}
    lines = {}
    for policy in ("layer", "streamed"):
        config = recipe(
            "pretrain",
            data,
            workers={"num_workers": 32},
            parallel={"activation": policy, "streamed_above_tokens": 0},
            **long,
        )
        lines[policy] = {line.name: line.size_bytes for line in describe_run(config).memory}
    kept, streamed = lines["layer"], lines["streamed"]
    assert streamed["gathered units"] == pytest.approx(2 * TOTAL, rel=1e-3) and kept["gathered units"] < 8 << 30
    assert streamed["gradients, not yet reduced"] == pytest.approx(4 * PRETRAIN, rel=1e-3)
    assert "streamed video" not in kept and streamed["streamed video"] > 500 << 20
    parallel = {"activation": "streamed", "streamed_above_tokens": 0, "stream_kv": "host"}
    plan = describe_run(recipe("pretrain", data, workers={"num_workers": 32}, parallel=parallel, **long))
    assert "streamed video" not in {line.name for line in plan.memory}
    assert plan.elsewhere is not None and plan.elsewhere.size_bytes == streamed["streamed video"]
    assert "in pinned host memory" in plan.rows()["streamed video"]
