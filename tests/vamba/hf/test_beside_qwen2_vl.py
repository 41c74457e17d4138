"""Beside transformers' own Qwen2-VL: converted from it, the tower agrees, and so does text that only sees itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

from tests.vamba.hf.models import media, prompt
from vamba.hf.modeling import VambaForConditionalGeneration
from vamba.model.config import MixerConfig
from vamba.model.convert import convert_qwen2_vl

SIZES: list[dict[str, Any]] = [
    {"hidden": 32, "heads": 4, "kv_heads": 2, "section": [1, 1, 2], "tied": False, "theta": 1e6, "tower": (2, 16, 2)},
    {"hidden": 48, "heads": 3, "kv_heads": 1, "section": [2, 3, 3], "tied": True, "theta": 1e4, "tower": (1, 24, 3)},
    {"hidden": 24, "heads": 2, "kv_heads": 2, "section": [4, 1, 1], "tied": False, "theta": 500.0, "tower": (3, 8, 1)},
]


def qwen2_vl(size: dict[str, Any]) -> Qwen2VLForConditionalGeneration:
    depth, width, heads = size["tower"]
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 64,
            "hidden_size": size["hidden"],
            "intermediate_size": 40,
            "num_hidden_layers": 2,
            "num_attention_heads": size["heads"],
            "num_key_value_heads": size["kv_heads"],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": size["theta"],
                "mrope_section": size["section"],
            },
            "use_sliding_window": False,
        },
        vision_config={"depth": depth, "embed_dim": width, "num_heads": heads, "hidden_size": size["hidden"]},
        tie_word_embeddings=size["tied"],
    )
    torch.manual_seed(0)
    model = Qwen2VLForConditionalGeneration(config).eval()
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"width-{size['hidden']}")
def test_tower_and_text_agree(size: dict[str, Any], tmp_path: Path) -> None:
    theirs = qwen2_vl(size)
    theirs.save_pretrained(tmp_path / "qwen")
    mixer = MixerConfig(enable=True, hidden_dim=size["hidden"], d_state=8, headdim=8)
    convert_qwen2_vl(tmp_path / "qwen", tmp_path / "vamba", mixer=mixer)
    ours = VambaForConditionalGeneration.from_pretrained(tmp_path / "vamba", dtype=torch.float64)
    theirs.double()
    patches, grids = media(3, (3, 4, 6), (1, 2, 2), (2, 4, 4))
    ids = torch.cat([prompt(1, 9), prompt(2, 9)])
    mask = torch.ones_like(ids)
    mask[1, :3] = 0
    with torch.no_grad():
        tower = theirs.model.visual(patches.double(), grid_thw=grids)
        tokens = tower if isinstance(tower, torch.Tensor) else tower.pooler_output
        memory = ours.encode_video(patches, grids)
        (part,) = memory.open_pass(1).parts(0)
        rows = ours.model.layers[0].cross_attn.k_proj(tokens).unflatten(-1, part.k_MKD.shape[1:])
        torch.testing.assert_close(part.k_MKD, rows, rtol=1e-6, atol=1e-6)
        for layer in ours.model.layers:
            layer.alpha.fill_(1.0)
        expected = theirs(input_ids=ids, attention_mask=mask).logits
        made = ours(ids, mask, pixel_values=patches, image_grid_thw=grids, media_per_sample=[(2, 0), (1, 0)]).logits
    torch.testing.assert_close(made[mask.bool()], expected[mask.bool()], rtol=1e-6, atol=1e-6)


def test_their_generation_is_ours_when_text_sees_itself(tmp_path: Path) -> None:
    theirs = qwen2_vl(SIZES[0])
    theirs.save_pretrained(tmp_path / "qwen")
    mixer = MixerConfig(enable=True, hidden_dim=32, d_state=8, headdim=8)
    convert_qwen2_vl(tmp_path / "qwen", tmp_path / "vamba", mixer=mixer)
    ours = VambaForConditionalGeneration.from_pretrained(tmp_path / "vamba")
    for layer in ours.model.layers:
        layer.alpha.data.fill_(1.0)
    patches, grids = media(3, (3, 4, 6))
    options = {"max_new_tokens": 8, "do_sample": False, "num_beams": 2, "eos_token_id": None, "pad_token_id": 0}
    ids = prompt(4, 7)
    expected = theirs.generate(input_ids=ids, **options)
    assert torch.equal(ours.generate(ids, pixel_values_videos=patches, video_grid_thw=grids, **options), expected)
