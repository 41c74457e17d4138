"""What a run would be, counted on a fake mesh: every recipe, in one process, without memory."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from jobs import config as configuration
from jobs.cli.main import app
from pipelines.training.config import TrainingConfig
from pipelines.training.job import describe_run
from pipelines.training.preflight import DoesNotFitError, Preflight
from pipelines.training.session import build_state, open_training_data
from tests.distributed.dataset import make_sample, write_dataset
from vamba.assets.paths import TINY_TOKENIZER
from vamba.model.checkpoint_fit import expected_tensors
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.pretrained import save_pretrained
from vamba.model.vamba import Vamba

PRETRAIN, INSTRUCT, TOTAL = 3_018_461_404, 10_133_656_284, 11_309_837_020
RECIPES = ("pretrain", "instruct", "hour", "tiny_pretrain", "tiny_instruct")


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
    assert [line.size_bytes for line in plan.elsewhere] == [streamed["streamed video"]]
    assert "in pinned host memory" in plan.rows()["streamed video"]


@pytest.fixture(scope="module")
def hour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of one hour of 640x360, and beside it a 7B whose weights are a hole of 22.6 GB in a file: their header
    alone is read."""
    root = tmp_path_factory.mktemp("hour")
    film = replace(make_sample(0), width=640, height=360, duration_ns=3600 * 10**9)
    film = replace(film, timestamps_ns=tuple(i * 10**9 for i in range(3600)), frames=film.frames[:1] * 3600)
    write_dataset(root / "data", [film])
    model = root / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(PRESETS["qwen2_vl_7b"].to_dict()))
    header, end = {}, 0
    for name, shape in expected_tensors(PRESETS["qwen2_vl_7b"]).items():
        begin, end = end, end + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    written = json.dumps(header).encode()
    with (model / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        file.truncate(8 + len(written) + end)
    return root / "data"


def test_an_hour_at_full_resolution_fits_one_gpu(hour: Path) -> None:
    config = recipe("hour", hour, model={"init_from": str(hour.parent / "model")})
    plan = describe_run(config)
    plan.require_fit()
    assert plan.tokens_per_step > 538_200 and plan.sizes.trainable == PRETRAIN
    bytes_of = {line.name: line.size_bytes for line in plan.memory}
    whole = plan.sizes.local - plan.sizes.local_narrow  # trained, and what stays float32
    assert PRETRAIN < whole < PRETRAIN + 1_000_000
    assert bytes_of["master weights"] == 4 * whole and bytes_of["frozen weights"] == 2 * (TOTAL - whole)
    assert bytes_of["computed weights"] == 2 * plan.sizes.local_matrices < 2 * PRETRAIN
    assert bytes_of["optimizer state"] == 2 * bytes_of["gradients"] == 8 * PRETRAIN
    assert plan.memory_bytes - bytes_of["CUDA and NCCL"] < 74 << 30
    (stored,) = plan.elsewhere
    assert stored.name == "streamed video" and 50 << 30 < stored.size_bytes < 64 << 30


def test_frozen_weights_that_are_stored_wide_wait_on_the_host(data: Path) -> None:
    plan = describe_run(recipe("hour", data))
    assert {line.name: line.size_bytes for line in plan.elsewhere} == {"frozen weights": 4 * plan.sizes.frozen_matrices}
    assert plan.sizes.frozen_matrices + PRETRAIN < TOTAL < plan.sizes.frozen_matrices + PRETRAIN + 1_000_000
    on_cpu = describe_run(recipe("hour", data, workers={"device": "cpu"}))
    lines = {line.name: line.size_bytes for line in on_cpu.memory}
    assert lines["master weights"] == 4 * TOTAL and not on_cpu.elsewhere


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float32])
def test_the_lines_of_one_worker_are_what_it_holds(data: Path, tmp_path: Path, stored: torch.dtype) -> None:
    model = Vamba(PRESETS["tiny"])
    init_weights_(model, 0)
    save_pretrained(model.to(stored), tmp_path / "model", tokenizer_dir=TINY_TOKENIZER)
    on_cpu = {"device": "cpu", "gpu_memory_gb": None}
    config = recipe(
        "hour", data, model={"init_from": str(tmp_path / "model")}, workers=on_cpu, train={"expected_trainable": None}
    )
    lines = {line.name: line.size_bytes for line in describe_run(config).memory}
    state = build_state(config, open_training_data(config))
    kept = {name: value for name, value in state.tensors().items() if name.startswith("model.")}
    held = {id(p): p.detach() for p in state.model.parameters()}
    copies = [p for p in held.values() if p.dtype == torch.bfloat16]
    if stored == torch.bfloat16:
        frozen = [p for p in state.model.parameters() if not p.requires_grad and p.dtype == torch.bfloat16]
        assert lines["frozen weights"] == sum(p.nbytes for p in frozen)
    else:
        assert "frozen weights" not in lines
        frozen = []
    assert lines["computed weights"] == sum(p.nbytes for p in copies) - sum(p.nbytes for p in frozen)
    narrow = sum(p.numel() for p in frozen)
    assert lines["master weights"] == 4 * (sum(p.numel() for p in held.values()) - narrow)
    assert lines["gradients"] == sum(value.nbytes for value in kept.values())
    moments = [value.nbytes for name, value in state.tensors().items() if ".exp_avg" in name]
    assert lines["optimizer state"] == sum(moments)
