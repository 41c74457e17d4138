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
        ({"rope_scaling": {"mrope_section": [2, 2]}}, r"mrope_section is \[2, 2\]; it must be three"),
        (
            {"rope_scaling": {"type": "yarn", "factor": 4.0}},
            "rope_scaling.type is 'yarn'; this model is built for 'mrope'",
        ),
        ({"rope_parameters": {"rope_type": "dynamic"}}, "rope_parameters.rope_type is 'dynamic'"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"rope_scaling": {"mrope_interleaved": True}}, "mrope_interleaved is True"),
        ({"hidden_act": "gelu"}, "hidden_act is 'gelu'; this model is built for 'silu' alone"),
        ({"text_config": {"hidden_act": "gelu"}}, "text_config.hidden_act is 'gelu'"),
        ({"vision_config": {"hidden_act": "silu"}}, "vision_config.hidden_act is 'silu'.*'quick_gelu'"),
        ({"use_sliding_window": True}, "use_sliding_window is True"),
        ({"text_config": {"layer_types": ["full_attention", "sliding_attention"]}}, "layer_types holds .'sliding"),
        ({"head_dim": 16}, "head_dim is 16; it must be absent or 8"),
        ({"attention_bias": False}, "attention_bias is False"),
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1"),
        ({"quantization_config": {"bits": 4}}, "quantization_config is .*; it must be absent"),
        ({"text_config": {"quantization_config": {}}}, "text_config.quantization_config"),
        ({"hidden_size": "32"}, "hidden_size is '32'; it must be a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0; it must be a whole number of at least 1"),
        ({"vision_config": {"patch_size": 14, "spatial_patch_size": 16}}, "spatial_patch_size is 16; .* or 14"),
        ({"vision_config": {"in_channels": 3, "in_chans": 1}}, "in_chans is 1; it must be absent or 3"),
        ({"vision_config": {"fullatt_block_indexes": [7]}}, "fullatt_block_indexes"),
        ({"vision_config": {"rope_parameters": {"rope_theta": 500.0}}}, "rope_parameters.rope_theta is 500.0"),
        ({"vision_config": {"embed_dim": 18, "num_heads": 3}}, "embed_dim is 18; it must be a multiple of"),
        ({"vision_mamba_mixer_config": {"d_ssm": 7}}, "d_ssm is 7; it must be absent or 7168"),
        ({"vision_mamba_mixer_config": {"norm_type": "layernorm"}}, "norm_type is 'layernorm'"),
        ({"vision_mamba_mixer_config": {"D_has_hdim": True}}, "D_has_hdim is True"),
        ({"vision_mamba_mixer_config": {"residual_in_fp32": True}}, "residual_in_fp32 is True"),
        ({"vision_mamba_mixer_config": {"dt_limit": 3}}, "dt_limit is 3; it must be two numbers"),
        ({"vision_mamba_mixer_config": {"dt_limit": [1, 0.5]}}, "dt_limit: 1.0 to 0.5"),
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


@pytest.mark.parametrize("limit", [[0.001, math.inf], (0.001, "inf"), ["0.001", "Infinity"]])
def test_forms_of_dt_limit(limit: Any) -> None:
    read = ModelConfig.from_dict({**CONFIG.to_dict(), "vision_mamba_mixer_config": {"dt_limit": limit}})
    assert read.mixer.dt_limit == (0.001, math.inf)
    unbounded = json.loads('{"vision_mamba_mixer_config": {"dt_limit": [0, Infinity]}}')
    assert ModelConfig.from_dict({**CONFIG.to_dict(), **unbounded}).mixer.dt_limit == (0.0, math.inf)


def test_a_mixer_written_with_every_key_of_transformers() -> None:
    full = json.loads((ROOT / "H_mixer" / "config.json").read_text())
    read = ModelConfig.from_dict(
        {**CONFIG.to_dict(), "hidden_size": 128, "vision_config": {"hidden_size": 128}, "num_attention_heads": 16}
        | {"vision_mamba_mixer_config": full}
    )
    assert (read.mixer.hidden_dim, read.mixer.headdim, read.mixer.A_init_range) == (128, 16, (1.0, 16.0))


def test_keys_of_both_vision_formats() -> None:
    hub = {"in_chans": 3, "spatial_patch_size": 14, "mlp_ratio": 4, "embed_dim": 32, "num_heads": 2, "hidden_size": 32}
    new = {
        "in_channels": 3,
        "mlp_ratio": 4,
        "hidden_act": "quick_gelu",
        "embed_dim": 32,
        "num_heads": 2,
        "hidden_size": 32,
    }
    new |= {"patch_size": [14, 14], "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}}
    read = [ModelConfig.from_dict({**CONFIG.to_dict(), "vision_config": values}).vision for values in (hub, new)]
    assert read[0] == read[1]
    assert (read[0].in_channels, read[0].patch_size, read[0].mlp_ratio) == (3, 14, 4.0)


def test_what_an_absent_key_means_in_a_file_of_qwen2_vl() -> None:
    assert ModelConfig.from_dict({"model_type": "qwen2_vl"}).rms_norm_eps == 1e-5
    assert ModelConfig.from_dict({"model_type": "vamba"}).rms_norm_eps == 1e-6
    heads = {"num_attention_heads": 4, "num_key_value_heads": None}
    assert ModelConfig.from_dict({**CONFIG.to_dict(), **heads}).num_key_value_heads == 4


def test_several_end_tokens() -> None:
    config = ModelConfig.from_dict({**CONFIG.to_dict(), "eos_token_id": [3, 5]})
    assert config.eos_token_id == (3, 5)
    assert hash(config) == hash(ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))))


@pytest.mark.parametrize(("outer", "inner"), [(True, None), (None, True), (False, True), (True, False)])
def test_tied_embeddings_are_read_of_either_part(outer: bool | None, inner: bool | None) -> None:
    values = {**CONFIG.to_dict(), "text_config": {"tie_word_embeddings": inner}, "tie_word_embeddings": outer}
    assert ModelConfig.from_dict(values).tie_word_embeddings


def test_tied_embeddings_of_the_outer_config_win() -> None:
    nested = {**CONFIG.to_dict(), "text_config": {"tie_word_embeddings": False}, "tie_word_embeddings": True}
    assert ModelConfig.from_dict(nested) == replace(CONFIG, tie_word_embeddings=True)
