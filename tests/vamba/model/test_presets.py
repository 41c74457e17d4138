"""The sizes are what they are said to be; counted without memory."""

from __future__ import annotations

import re

import pytest
import torch

from vamba.assets.paths import TINY_TOKENIZER
from vamba.data.text import load_tokenizer
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
