"""The model that a run starts from stays what it was: when an alias moves, when files change, when they are gone."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.registry.models import ModelNotFoundError
from pipelines.registry.tracking import open_client
from pipelines.training import job
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory, RunMismatchError, run_directory
from pipelines.training.session import build_state, open_training_data, train_rank
from pipelines.training.start_model import StartModelChangedError
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config
from tests.pipelines.evaluation.needle_data import write_model

STAGE_1 = (".*(cross_attn|vision_mixer|alpha).*",)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Jobs train in this process; the list holds the directory that each of them started from."""
    started: list[Path] = []

    def train_here(config: TrainingConfig, directory: RunDirectory, *_: object) -> None:
        assert config.model.init_from is not None
        started.append(Path(config.model.init_from))
        train_rank(config, directory)

    monkeypatch.setattr(job, "train_on_ray", train_here)
    return started


def config_of(tmp_path: Path, init_from: str, *, num_steps: int = 2) -> TrainingConfig:
    if not (tmp_path / "data").exists():
        write_dataset(tmp_path / "data", [make_sample(i) for i in range(8)])
    config = tiny_config(tmp_path / "data", tmp_path, "run", num_steps=num_steps, every=1)
    train = replace(config.train, trainable=STAGE_1)
    return replace(config, train=train, model=replace(config.model, init_from=init_from))


def run(config: TrainingConfig) -> None:
    job.run_training(config, lambda line: None, job.train_on_ray)


def test_an_alias_that_moves_does_not_move_the_run(tmp_path: Path, trained: list[Path]) -> None:
    first, second = (write_model(tmp_path / f"v{n}", seed=n) for n in (1, 2))
    client = open_client()
    client.create_registered_model("base")
    for directory in (first, second):
        client.create_model_version("base", str(directory))
    client.set_registered_model_alias("base", "stage-1", "1")
    config = config_of(tmp_path, "models:/base@stage-1")
    run(config)
    client.set_registered_model_alias("base", "stage-1", "2")
    longer = replace(config, train=replace(config.train, num_steps=4))
    run(longer)
    assert trained == [first, first]
    recorded = run_directory(config.storage, "run").read_run()["start_model"]
    assert (recorded["source"], recorded["directory"]) == ("models:/base/1", str(first))
    other = replace(config, name="other")
    run(other)
    assert trained[-1] == second
    assert run_directory(config.storage, "other").read_run()["start_model"]["digest"] != recorded["digest"]
    # The version's own URI means the same model, but it is another wish: say so instead of guessing.
    with pytest.raises(RunMismatchError, match="init_from"):
        run(replace(longer, model=replace(config.model, init_from="models:/base/2")))


def test_a_changed_file_is_named_and_refused(tmp_path: Path, trained: list[Path]) -> None:
    base = write_model(tmp_path / "base")
    config = config_of(tmp_path, str(base))
    run(config)
    weights = base / "model.safetensors"
    untouched = weights.read_bytes()
    longer = replace(config, train=replace(config.train, num_steps=3))
    weights.write_bytes(untouched[:-1] + bytes([untouched[-1] ^ 1]))
    with pytest.raises(StartModelChangedError, match=r"model.safetensors changed"):
        run(longer)
    weights.write_bytes(untouched)  # the same bytes, of another time
    (base / "README.md").write_text("decides nothing")
    run(longer)
    (base / "tokenizer.json").unlink()
    with pytest.raises(StartModelChangedError, match=r"tokenizer.json changed"):
        run(replace(config, train=replace(config.train, num_steps=4)))


def test_unchanged_files_are_not_read_again(tmp_path: Path, trained: list[Path]) -> None:
    base = write_model(tmp_path / "base")
    config = config_of(tmp_path, str(base))
    run(config)
    weights = base / "model.safetensors"
    status, content = weights.stat(), bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
    before = run_directory(config.storage, "run").read_run()["start_model"]
    with pytest.raises(ValueError, match="frozen weights"):  # what size and time hide, the checkpoint's digest finds
        run(replace(config, train=replace(config.train, num_steps=3)))
    assert run_directory(config.storage, "run").read_run()["start_model"] == before


def test_a_model_that_is_gone_is_missed(tmp_path: Path, trained: list[Path]) -> None:
    base = write_model(tmp_path / "base")
    config = config_of(tmp_path, str(base))
    run(config)
    shutil.rmtree(base)
    run(config)  # finished: nothing is needed
    with pytest.raises(StartModelChangedError, match="there is no model any more"):
        run(replace(config, train=replace(config.train, num_steps=3)))
    with pytest.raises(ModelNotFoundError):
        run(replace(config, name="new"))


def test_released_bfloat16_weights_are_trained_in_float32(tmp_path: Path) -> None:
    base = write_model(tmp_path / "base")
    path = base / "model.safetensors"
    stored = {name: value.bfloat16() for name, value in load_file(path).items()}
    save_file(stored, path)
    config = config_of(tmp_path, str(base))
    state = build_state(config, open_training_data(config))
    parameters = dict(state.model.named_parameters())
    assert {p.dtype for p in parameters.values()} == {torch.float32}
    assert all(stored[name].float().equal(value) for name, value in parameters.items())
