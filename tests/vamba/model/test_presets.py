"""The sizes are what they are said to be; counted without memory."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch

from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.text import load_tokenizer
from vamba.model.config import MixerConfig, ModelConfig
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba


def meta(name: str) -> Vamba:
    with torch.device("meta"):
        return Vamba(PRESETS[name])


def test_published_size() -> None:
    model = meta("qwen2_vl_7b")
    sizes = {name: parameter.numel() for name, parameter in model.named_parameters()}

    def count(pattern: str) -> int:
        return sum(size for name, size in sizes.items() if re.search(pattern, name))

    assert len(sizes) == 1206
    assert sum(sizes.values()) == 11_309_837_020
    assert count("cross_attn|vision_mixer|alpha") == 3_018_461_404
    assert count("visual.merger|model") == 10_133_656_284
    assert count(r"^visual\.") == 675_759_104
    assert count(r"layers\.0\.vision_mixer") == 78_437_456


def hub_config(
    vocab: int, width: int, mlp_width: int, layers: int, heads: int, kv_heads: int, *, tied: bool
) -> dict[str, Any]:
    """A config.json in the flat form of the hub."""
    return {
        "model_type": "qwen2_vl",
        "vocab_size": vocab,
        "hidden_size": width,
        "intermediate_size": mlp_width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": tied,
        "vision_config": {"depth": 32, "embed_dim": 1280, "mlp_ratio": 4, "num_heads": 16, "in_chans": 3}
        | {"hidden_size": width, "patch_size": 14, "spatial_merge_size": 2, "spatial_patch_size": 14},
    }


def expected_parameters(vocab: int, width: int, mlp_width: int, layers: int, kv_width: int, *, tied: bool) -> int:
    """Counted by hand, from the equations."""
    tower = 1280
    block = 12 * tower**2 + 13 * tower
    merger = 2 * tower + (4 * tower) ** 2 + 4 * tower + 4 * tower * width + width
    vision = tower * 3 * 2 * 14 * 14 + 32 * block + merger
    attention = 2 * width**2 + width + 2 * (width + 1) * kv_width
    inner, heads, state = 2 * width, 2 * width // 64, 128
    channels = inner + 2 * state
    mixer = width + width * (inner + channels + heads) + 5 * channels + 3 * heads + inner + inner * width
    layer = 2 * attention + 3 * width * mlp_width + 2 * width + 1 + mixer
    return vision + vocab * width * (1 if tied else 2) + layers * layer + width


@pytest.mark.parametrize(
    ("name", "vocab", "width", "mlp_width", "layers", "heads", "kv_heads", "tied"),
    [
        ("qwen2_vl_2b", 151936, 1536, 8960, 28, 12, 2, True),
        ("qwen2_vl_7b", 152064, 3584, 18944, 28, 28, 4, False),
        ("qwen2_vl_72b", 152064, 8192, 29568, 80, 64, 8, False),
    ],
)
def test_every_released_size(
    name: str, vocab: int, width: int, mlp_width: int, layers: int, heads: int, kv_heads: int, tied: bool
) -> None:
    base = ModelConfig.from_dict(hub_config(vocab, width, mlp_width, layers, heads, kv_heads, tied=tied))
    converted = replace(base, mixer=MixerConfig(enable=True, hidden_dim=base.hidden_size))
    assert converted == PRESETS[name]
    total = sum(parameter.numel() for parameter in meta(name).parameters())
    assert total == expected_parameters(vocab, width, mlp_width, layers, kv_heads * width // heads, tied=tied)


@pytest.mark.parametrize(("name", "low", "high"), [("tiny", 300_000, 500_000), ("small", 80_000_000, 130_000_000)])
def test_small_sizes(name: str, low: int, high: int) -> None:
    assert low <= sum(parameter.numel() for parameter in meta(name).parameters()) <= high


def test_tiny_fits_its_tokenizer() -> None:
    tokenizer, config = load_tokenizer(TINY_TOKENIZER), PRESETS["tiny"]
    assert tokenizer.vocab_size == config.vocab_size
    assert tokenizer.im_end_id == config.eos_token_id
    assert tokenizer.endoftext_id == config.bos_token_id
    assert tokenizer.vision_start_id == config.vision_start_token_id
    assert tokenizer.vision_end_id == config.vision_end_token_id
    assert tokenizer.token_id("<|vision_pad|>") == config.vision_token_id
    assert tokenizer.token_id("<|image_pad|>") == config.image_token_id
    assert tokenizer.token_id("<|video_pad|>") == config.video_token_id
