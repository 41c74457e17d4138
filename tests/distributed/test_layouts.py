"""Two ranks against one process where they could differ: unequal packs, images among videos, adapters, bfloat16."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from vamba.data.sample import Sample
from vamba.parallel.config import ParallelConfig

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

STAGE_1 = (".*(cross_attn|vision_mixer|alpha).*",)


def image(number: int) -> Sample:
    sample = make_sample(number, num_frames=1, side=56 + 28 * (number % 3))
    return replace(sample, media="image", duration_ns=0)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layouts")
    videos = [make_sample(i, num_frames=2 + i % 5) for i in range(14)]
    write_dataset(root / "data", [*videos, *(image(i) for i in range(14, 26))])
    return root


def config_of(root: Path, name: str) -> TrainingConfig:
    """`mixed`: five packs a step, so that one of two ranks has a placeholder. `adapted`: adapters with dropout, whose
    masks must not depend on the rank, nor on whether a layer is recomputed. `frozen`: stage 1."""
    kind, _, size = name.partition("-")
    config = tiny_config(root / "data", root, name, num_steps=10, every=10)
    config = replace(config, plan=replace(config.plan, packs_per_step=5))
    if kind == "adapted":
        config = replace(config, model=replace(config.model, lora=LoraConfig(rank=4, dropout=0.2)))
        if size == "two":
            config = replace(config, parallel=replace(config.parallel, activation="layer"))
    if kind == "frozen":
        config = replace(config, train=replace(config.train, trainable=STAGE_1))
    return config


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunDirectory]:
    names = [f"{kind}-{size}" for kind in ("mixed", "adapted", "frozen") for size in ("one", "two")]
    jobs = {name: Job(config=config_of(root, name)) for name in names}
    for job in jobs.values():
        open_run(job.config)
    train(2, *(job for name, job in jobs.items() if name.endswith("two")), scratch=root)
    train(1, *(job for name, job in jobs.items() if name.endswith("one")), scratch=root)
    return {name: run_directory(str(root), name) for name in names}


@pytest.mark.parametrize("kind", ["mixed", "adapted", "frozen"])
def test_two_ranks_train_as_one_process_does(runs: dict[str, RunDirectory], kind: str) -> None:
    one, two = ([r for _, r in runs[f"{kind}-{size}"].read_metrics()] for size in ("one", "two"))
    assert len(one) == 10
    assert [r["loss"] for r in one] == pytest.approx([r["loss"] for r in two], rel=1e-6)
    assert [r["grad_norm"] for r in one] == pytest.approx([r["grad_norm"] for r in two], rel=1e-4)
    assert [r["sample_ids"] for r in one] == [r["sample_ids"] for r in two]
    assert len({r["sample_ids"][0] < "clip-0014" for r in one}) == 2  # steps of videos, and steps of images


def test_adapters_of_two_ranks_are_those_of_one(runs: dict[str, RunDirectory]) -> None:
    one, two = (load_file(runs[f"adapted-{n}"].root / "adapter" / "adapter_model.safetensors") for n in ("one", "two"))
    assert one.keys() == two.keys()
    compared = [key for key in one if "cross_attn.k_proj" not in key]
    assert any(one[key].norm() > 0 for key in compared if "lora_B" in key)
    difference = torch.cat([(one[key] - two[key]).flatten() for key in compared])
    assert difference.norm() / torch.cat([one[key].flatten() for key in compared]).norm() < 1e-5


def test_bfloat16_leaves_what_needs_precision_in_float32(root: Path, tmp_path: Path) -> None:
    import torch.multiprocessing as mp

    config = config_of(root, "frozen-two")
    config = replace(config, parallel=ParallelConfig(compute_dtype="bfloat16"))
    mp.spawn(_look_at_types, args=(config, str(tmp_path / f"rendezvous-{os.urandom(4).hex()}")), nprocs=2, join=True)


def _look_at_types(rank: int, config: TrainingConfig, rendezvous: str) -> None:
    """One step in bfloat16: the types that the layers compute with, and those that training keeps."""
    import torch.distributed as dist

    from pipelines.training.session import build_state, open_training_data
    from vamba.assets.paths import TINY_TOKENIZER
    from vamba.data.encode import SampleEncoder
    from vamba.data.reader import PackReader
    from vamba.data.text import load_tokenizer
    from vamba.parallel.sharding import is_full_precision
    from vamba.train.optimizer import local
    from vamba.train.step import train_step

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    data = open_training_data(config)
    state = build_state(config, data)
    seen: dict[str, torch.dtype] = {}
    grads: dict[str, torch.dtype] = {}

    def look(module: Any, _: object) -> None:
        seen.update((name, parameter.dtype) for name, parameter in module.named_parameters())

    state.model.model.layers[0].register_forward_pre_hook(look)
    step = state.optimizer.step

    def look_at_gradients(learning_rate: float) -> None:
        named = state.optimizer.parameters.items()
        grads.update((name, local(p.grad).dtype) for name, p in named if p.grad is not None)
        step(learning_rate)

    state.optimizer.step = look_at_gradients  # type: ignore[method-assign]

    encode = SampleEncoder(load_tokenizer(TINY_TOKENIZER), config.reader)
    with PackReader(
        data.plan, data.rows, data.read_range, encode, state=state.reader_state, rank=rank, world_size=2
    ) as reader:
        result = train_step(state, next(reader)[0])
    assert result.loss > 0
    whole = {name for name in seen if is_full_precision(name)}
    assert {name.rpartition(".")[2] for name in whole} >= {"A_log", "D", "dt_bias", "alpha", "weight"}
    assert {seen[name] for name in whole} == {torch.float32}
    assert {seen[name] for name in seen.keys() - whole} == {torch.bfloat16}
    assert set(grads.values()) == {torch.float32}
    assert {p.dtype for p in state.model.parameters()} == {torch.float32}
    frozen = [name for name, p in state.model.named_parameters() if not p.requires_grad]
    assert frozen and not any(key.startswith(name) for key in state.optimizer.state_tensors() for name in frozen)
    assert {t.dtype for key, t in state.optimizer.state_tensors().items() if "exp_avg" in key} == {torch.float32}
    dist.destroy_process_group()
