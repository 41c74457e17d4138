"""Configurations survive a round trip; what can't work is refused with a reason."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tests.golden.case import ROOT
from tests.vamba.model.samples import CONFIG
from vamba.model.config import MixerConfig, ModelConfig
from vamba.model.presets import PRESETS


@pytest.mark.parametrize("config", [*PRESETS.values(), CONFIG], ids=[*PRESETS, "random"])
def test_round_trip_through_json(config: ModelConfig) -> None:
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_release_format() -> None:
    config = ModelConfig.from_dict(json.loads((ROOT / "A_video_base" / "config.json").read_text()))
    assert (config.mixer.d_state, config.mixer.headdim, config.mixer.d_conv) == (16, 16, 4)
    assert config.mixer.enable
    assert config.mrope_section == (2, 3, 3)


def test_mixer_defaults_are_the_releases() -> None:
    config = MixerConfig()
    assert (config.enable, config.hidden_dim, config.dt_limit) == (False, 3584, (0.0, math.inf))


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"model_type": "llama"}, "model_type 'llama'"),
        ({"num_key_value_heads": 3}, "num_attention_heads is 4; it must be a multiple of num_key_value_heads, 3"),
        ({"rope_scaling": {"mrope_section": [1, 1, 1]}}, "mrope_section"),
        ({"vision_mamba_mixer_config": {"enable": True}}, "hidden_dim is 3584; it must equal hidden_size, 32"),
        (
            {"vision_mamba_mixer_config": {"enable": True, "hidden_dim": 32, "headdim": 8, "norm_before_gate": True}},
            "norm_before_gate",
        ),
    ],
)
def test_refusals_name_value_and_rule(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        ModelConfig.from_dict({**CONFIG.to_dict(), **change})


def test_tied_embeddings_of_the_outer_config_win() -> None:
    nested = {**CONFIG.to_dict(), "text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": True}
    assert ModelConfig.from_dict(nested) == replace(CONFIG, tie_word_embeddings=True)
