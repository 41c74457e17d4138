"""One worker in bfloat16 against two, where FSDP does it: the same run, to be stopped and continued by either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.checkpoint_export import export_checkpoint
from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train
from tests.distributed.test_layouts import STAGE_1, image
from vamba.assets.paths import TINY_TOKENIZER
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.pretrained import save_pretrained
from vamba.model.vamba import Vamba
from vamba.parallel.config import ParallelConfig

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

FRESH = ("plain-one", "plain-two", "frozen-one", "frozen-two", "adapted-one", "adapted-two", "streamed-one")
RESUMED = {
    "frozen-one-again": "frozen-one",
    "frozen-one-grown": "frozen-one",
    "frozen-two-shrunk": "frozen-two",
    "streamed-one-again": "streamed-one",
}
ON_TWO = ("plain-two", "frozen-two", "adapted-two", "frozen-one-grown")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("bfloat16")
    videos = [make_sample(i, num_frames=2 + i % 5) for i in range(14)]
    write_dataset(root / "data", [*videos, *(image(i) for i in range(14, 26))])
    model = Vamba(PRESETS["tiny"])
    init_weights_(model, 0)
    save_pretrained(model.bfloat16(), root / "release", tokenizer_dir=TINY_TOKENIZER)
    return root


def config_of(root: Path, name: str) -> TrainingConfig:
    """`plain`: everything is trained, from a seed. Others start from a model that is stored in bfloat16: `frozen` and
    `streamed` train stage 1, `adapted` adapters."""
    kind = name.partition("-")[0]
    config = tiny_config(root / "data", root, name, num_steps=8, every=4)
    parallel = ParallelConfig(compute_dtype="bfloat16")
    if kind == "streamed":
        parallel = replace(parallel, activation="streamed", streamed_above_tokens=0, stream_chunk_tokens=5)
    config = replace(config, plan=replace(config.plan, packs_per_step=5), parallel=parallel)
    if kind == "plain":
        return config
    config = replace(config, model=replace(config.model, init_from=str(root / "release")))
    if kind == "adapted":
        return replace(config, model=replace(config.model, lora=LoraConfig(rank=4, dropout=0.2)))
    return replace(config, train=replace(config.train, trainable=STAGE_1))


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, RunDirectory]:
    jobs = {name: Job(config=config_of(root, name)) for name in FRESH}
    for job in jobs.values():
        open_run(job.config)
    for name, source in RESUMED.items():
        jobs[name] = Job(config=config_of(root, name), resume_from=source, step=4)
    train(2, *(job for name, job in jobs.items() if name in ("plain-two", "frozen-two", "adapted-two")), scratch=root)
    train(1, *(job for name, job in jobs.items() if name not in ON_TWO), scratch=root)
    train(2, jobs["frozen-one-grown"], scratch=root)
    return {name: run_directory(str(root), name) for name in jobs}


def losses(run: RunDirectory) -> list[float]:
    return [record["loss"] for _, record in run.read_metrics()]


@pytest.mark.parametrize("kind", ["plain", "frozen", "adapted"])
def test_one_worker_trains_as_two_do(runs: dict[str, RunDirectory], kind: str) -> None:
    one, two = (losses(runs[f"{kind}-{size}"]) for size in ("one", "two"))
    assert len(one) == 8 and one[:2] == two[:2]
    assert one == pytest.approx(two, rel=1e-3)  # a gradient that is added in another order may round otherwise


def test_a_streamed_step_is_that_of_one_pass(runs: dict[str, RunDirectory]) -> None:
    assert losses(runs["streamed-one"]) == pytest.approx(losses(runs["frozen-one"]), rel=5e-3)


@pytest.mark.parametrize("kind", ["frozen", "streamed"])
def test_a_resumed_run_is_the_same_to_the_last_bit(runs: dict[str, RunDirectory], kind: str) -> None:
    assert losses(runs[f"{kind}-one-again"]) == losses(runs[f"{kind}-one"])[4:]
    weights, again = (trained_of(runs[f"{kind}-one{suffix}"]) for suffix in ("", "-again"))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


@pytest.mark.parametrize(("resumed", "source"), [("frozen-one-grown", "one"), ("frozen-two-shrunk", "two")])
def test_a_run_goes_on_with_another_number_of_workers(runs: dict[str, RunDirectory], resumed: str, source: str) -> None:
    assert losses(runs[resumed]) == pytest.approx(losses(runs[f"frozen-{source}"])[4:], rel=1e-3)


def trained_of(run: RunDirectory) -> dict[str, torch.Tensor]:
    return load_file(run.model / "model.safetensors")


def test_the_finished_model_has_what_was_frozen_as_it_was_and_the_rest_in_float32(
    root: Path, runs: dict[str, RunDirectory]
) -> None:
    release = load_file(root / "release" / "model.safetensors")
    one, two = trained_of(runs["frozen-one"]), trained_of(runs["frozen-two"])
    assert one.keys() == two.keys() == release.keys()
    trained = [name for name in one if any(part in name for part in ("cross_attn", "vision_mixer", "alpha"))]
    for name, tensor in one.items():
        assert tensor.dtype == two[name].dtype == torch.float32
        if name not in trained:
            assert torch.equal(tensor, release[name].float()) and torch.equal(tensor, two[name])
    assert any(not torch.equal(one[name], one[name].bfloat16().float()) for name in trained)  # not the rounded copies


def test_a_checkpoint_is_exported_as_the_run_exports_itself(runs: dict[str, RunDirectory]) -> None:
    exported = load_file(export_checkpoint(runs["frozen-one"], 8) / "model.safetensors")
    finished = trained_of(runs["frozen-one"])
    assert exported.keys() == finished.keys()
    assert all(torch.equal(exported[name], finished[name]) for name in finished)


def test_two_ranks_hold_frozen_weights_as_they_are_stored(root: Path, tmp_path: Path) -> None:
    import os

    import torch.multiprocessing as mp

    config = config_of(root, "frozen-two")
    mp.spawn(_look_at_types, args=(config, str(tmp_path / f"rendezvous-{os.urandom(4).hex()}")), nprocs=2, join=True)


def _look_at_types(rank: int, config: Any, rendezvous: str) -> None:
    import torch.distributed as dist

    from pipelines.training.session import build_state, open_training_data
    from vamba.parallel.sharding import is_full_precision

    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    named = dict(build_state(config, open_training_data(config)).model.named_parameters())
    narrow = {name for name, p in named.items() if p.dtype == torch.bfloat16}
    assert narrow == {name for name, p in named.items() if not p.requires_grad and not is_full_precision(name)} != set()
    assert {p.dtype for name, p in named.items() if name not in narrow} == {torch.float32}
    dist.destroy_process_group()
