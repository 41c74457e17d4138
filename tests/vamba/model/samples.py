"""Small random models and samples for the model's tests."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vamba.data.batch import EncodedSample, Grid
from vamba.data.text import EncodedText
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.init import init_weights_
from vamba.model.vamba import Vamba
from vamba.ops.backends import Backends

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    mrope_section=(1, 1, 2),
    initializer_range=0.2,
    vision=VisionConfig(depth=2, embed_dim=16, num_heads=2, hidden_size=32),
    mixer=MixerConfig(enable=True, hidden_dim=32, d_state=8, headdim=8, chunk_size=8, ngroups=2),
)

FLAGS: list[dict[str, Any]] = [
    {},
    {"cross_attn_use_position_embeddings": True},
    {"cross_attn_use_layer_norm": True},
    {"cross_attn_use_position_embeddings": True, "cross_attn_use_layer_norm": True},
    {"use_alpha_balancing": False},
]
"""Every way the published configuration can be set."""


def random_model(seed: int = 0, backends: Backends | None = None, **changes: Any) -> Vamba:
    """A float64 model with weights large enough that every path shows in the logits."""
    model = Vamba(replace(CONFIG, **changes), backends)
    init_weights_(model, seed)
    return model.double().eval()


def random_sample(seed: int, grids: tuple[Grid, ...], text_lengths: tuple[int, ...]) -> EncodedSample:
    rng = np.random.default_rng(seed)
    rows = sum(t * h * w for t, h, w in grids)
    texts = []
    for length in text_lengths:
        ids = rng.integers(0, CONFIG.vocab_size, length)
        labels = np.where(np.arange(length) >= length // 2, ids, -100)
        texts.append(EncodedText(input_ids=ids, labels=labels))
    patches = rng.standard_normal((rows, 1176)).astype(np.float32) if rows else None
    return EncodedSample(id=f"sample-{seed}", patches=patches, grid_thws=grids, texts=tuple(texts))


SAMPLES = (
    random_sample(1, ((5, 4, 6),), (9, 14)),
    random_sample(2, (), (6,)),
    random_sample(3, ((1, 4, 4), (2, 2, 4)), (11,)),
    random_sample(4, ((3, 6, 4),), (4, 5, 6)),
)
"""One video with two conversations, text alone, an image and a video together, a video of another size."""


def assert_same(actual: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
