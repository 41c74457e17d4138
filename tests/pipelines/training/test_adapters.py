"""LoRA: what is trained, what a checkpoint holds, what is exported, and what can't be adapted."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.training.adapters import PeftMissingError, add_adapters, merged
from pipelines.training.config import LoraConfig, TrainingConfig
from pipelines.training.job import describe_run
from pipelines.training.rank_run import RankRun
from pipelines.training.run_directory import RunDirectory
from pipelines.training.session import build_state, open_training_data, train_rank
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import open_run, tiny_config
from tests.pipelines.evaluation.needle_data import write_model
from vamba.model.presets import PRESETS
from vamba.model.pretrained import from_pretrained
from vamba.model.vamba import Vamba

pytestmark = pytest.mark.slow  # importing peft alone takes seconds

LORA = LoraConfig(rank=4, alpha=8.0, dropout=0.1)
NUM_TRAINED = 3 * 4 * (2 * (64 + 64 + 64 + 32 + 64 + 32 + 64 + 64) + 2 * (64 + 192) + (192 + 64))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lora")
    write_dataset(root / "data", [make_sample(i, num_frames=2 + i % 5) for i in range(16)])
    write_model(root / "base")
    return root


def lora_config(home: Path, name: str, *, num_steps: int = 4, lora: LoraConfig = LORA) -> TrainingConfig:
    config = tiny_config(home / "data", home, name, num_steps=num_steps, every=2)
    train = replace(config.train, expected_trainable=1)  # of the recipe's weights, which are not what is trained
    return replace(config, model=replace(config.model, init_from=str(home / "base"), lora=lora), train=train)


@pytest.fixture(scope="module")
def run(home: Path) -> RunDirectory:
    config = lora_config(home, "whole")
    directory = open_run(config)
    assert train_rank(config, directory).finished
    return directory


def test_only_adapters_are_trained_and_saved(home: Path, run: RunDirectory) -> None:
    state = build_state(lora_config(home, "whole"), open_training_data(lora_config(home, "whole")))
    names = set(state.optimizer.parameters)
    assert all(".lora_A." in name or ".lora_B." in name for name in names)
    assert sum(p.numel() for p in state.optimizer.parameters.values()) == NUM_TRAINED
    newest = max(run.checkpoints.glob("step_*"))
    assert 12 * NUM_TRAINED < sum(file.stat().st_size for file in newest.rglob("*.distcp")) < 30 * NUM_TRAINED
    plan = describe_run(lora_config(home, "whole"))
    assert plan.sizes.trainable == NUM_TRAINED and plan.checkpoint_bytes == 12 * NUM_TRAINED


def test_the_exported_model_is_base_and_adapters_merged(home: Path, run: RunDirectory) -> None:
    base, tuned = from_pretrained(home / "base"), from_pretrained(run.model)
    adapters = load_file(run.root / "adapter" / "adapter_model.safetensors")
    assert len(adapters) == 2 * 3 * 11
    before = dict(base.named_parameters())
    for name, after in tuned.named_parameters():
        a = adapters.get(f"base_model.model.{name.removesuffix('.weight')}.lora_A.weight")
        b = adapters.get(f"base_model.model.{name.removesuffix('.weight')}.lora_B.weight")
        change = torch.zeros_like(after) if a is None or b is None else 2.0 * b @ a
        torch.testing.assert_close(after, before[name] + change)
    moved = [name for name, after in tuned.named_parameters() if not after.equal(before[name])]
    assert moved and all(name.endswith("_proj.weight") for name in moved)


def test_peft_itself_reads_the_adapter_and_agrees(home: Path, run: RunDirectory) -> None:
    from peft import PeftModel

    loaded = PeftModel.from_pretrained(from_pretrained(home / "base"), str(run.root / "adapter"))
    theirs = dict(loaded.merge_and_unload().named_parameters())
    for name, ours in from_pretrained(run.model).named_parameters():
        torch.testing.assert_close(ours, theirs[name])


def test_merging_equals_the_adapted_model() -> None:
    torch.manual_seed(0)
    model = Vamba(PRESETS["tiny"], device="cpu")
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    add_adapters(model, replace(LORA, dropout=0.0), seed=0)
    layer = model.model.hybrid_layers[0].cross_attn.k_proj
    torch.nn.init.normal_(layer.lora_B.default.weight)
    own = dict(merged(iter(model.state_dict().items()), LORA, {}))
    x = torch.randn(5, 64)
    name = "model.layers.0.cross_attn.k_proj"
    torch.testing.assert_close(torch.nn.functional.linear(x, own[f"{name}.weight"], own[f"{name}.bias"]), layer(x))
    assert set(own) == set(Vamba(PRESETS["tiny"], device="cpu").state_dict())


def test_a_run_that_is_continued_draws_the_same_dropout(
    home: Path, run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lora_config(home, "halves", num_steps=4)
    directory = open_run(config)
    with monkeypatch.context() as stopping:
        stopping.setattr(RankRun, "stop_requested", lambda run: run._step >= 1)
        assert train_rank(config, directory).step == 2
    assert train_rank(config, directory).finished
    losses = [record["loss"] for _, record in directory.read_metrics()]
    assert losses == [record["loss"] for _, record in run.read_metrics()]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("lm_head", "'lm_head' matches 'lm_head'"),
        (r".*\.conv1d", "Conv1d"),
        (r"model\.layers\.\d+\.mlp", "a MLP"),
        ("q_proj", "matches no module"),
    ],
)
def test_what_cannot_be_adapted_is_named(pattern: str, message: str) -> None:
    with torch.device("meta"):
        model = Vamba(PRESETS["tiny"], device="cpu")
    with pytest.raises(ValueError, match=message):
        add_adapters(model, replace(LORA, target_modules=(pattern,)), seed=0)


def test_impossible_adapters_are_refused() -> None:
    for wrong in ({"rank": 0}, {"alpha": 0.0}, {"dropout": 1.0}, {"target_modules": ()}):
        with pytest.raises(ValueError, match=r"model\.lora"):
            LoraConfig(**wrong)  # type: ignore[arg-type]


def test_without_peft_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with torch.device("meta"):
        model = Vamba(PRESETS["tiny"], device="cpu")
    with pytest.raises(PeftMissingError, match=r"pip install 'vamba\[lora\]'"):
        add_adapters(model, LORA, seed=0)
