"""The learning-rate schedule and the trainable set."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vamba.parallel.sharding import is_full_precision
from vamba.train.config import OptimizerConfig, TrainConfig
from vamba.train.seeds import seed_for
from vamba.train.trainable import decays, select_trainable


def test_rate_warms_up_linearly_then_follows_a_cosine() -> None:
    config = OptimizerConfig(learning_rate=1.0, warmup_ratio=0.1)
    rates = [config.rate(step, 100) for step in range(100)]
    assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert rates[10] == 1.0
    assert rates[55] == pytest.approx(0.5)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert config.rate(100, 100) == pytest.approx(0.0)


def test_rate_can_end_above_zero() -> None:
    assert OptimizerConfig(learning_rate=2.0, min_learning_rate_ratio=0.1).rate(50, 50) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("model.layers.3.vision_mixer.mixer.A_log", True),
        ("model.layers.3.vision_mixer.mixer.D", True),
        ("model.layers.3.vision_mixer.mixer.dt_bias", True),
        ("model.layers.3.vision_mixer.mixer.norm.weight", True),
        ("model.layers.3.vision_mixer.norm.weight", True),
        ("model.layers.3.alpha", True),
        ("model.layers.3.input_layernorm.weight", True),
        ("model.norm.weight", True),
        ("visual.blocks.0.norm1.bias", True),
        ("visual.merger.ln_q.weight", True),
        ("model.layers.3.vision_mixer.mixer.in_proj.weight", False),
        ("model.layers.3.self_attn.q_proj.bias", False),
        ("model.embed_tokens.weight", False),
        ("lm_head.weight", False),
    ],
)
def test_full_precision_parameters_by_name(name: str, whole: bool) -> None:
    assert is_full_precision(name) is whole
    assert decays(name) is not (whole or name.endswith(".bias"))


def test_trainable_patterns_match_whole_names_and_are_counted() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    assert select_trainable(model, [r"1\..*"], expected=10) == 10
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True]
    with pytest.raises(ValueError, match="expected_trainable is 11"):
        select_trainable(model, [r"1\..*"], expected=11)
    with pytest.raises(ValueError, match="matches no parameter"):
        select_trainable(model, [r"1"])


def test_seeds_depend_on_every_part() -> None:
    seeds = {seed_for(*key) for key in [(0, 0, 0, "a"), (1, 0, 0, "a"), (0, 1, 0, "a"), (0, 0, 1, "a"), (0, 0, 0, "b")]}
    assert len(seeds) == 5
    torch.manual_seed(max(seeds))


@pytest.mark.parametrize(
    "make",
    [
        lambda: OptimizerConfig(learning_rate=0.0),
        lambda: OptimizerConfig(warmup_ratio=2.0),
        lambda: TrainConfig(num_epochs=0),
        lambda: TrainConfig(checkpoint_every_steps=0),
        lambda: TrainConfig(trainable=()),
    ],
)
def test_impossible_settings_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"train\."):
        make()  # type: ignore[operator]
