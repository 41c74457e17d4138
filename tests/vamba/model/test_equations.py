"""Random architectures in float64 against the equations written out (`oracle`): logits, loss and gradients."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from tests.vamba.model import oracle
from vamba.data.batch import EncodedSample, Grid, collate
from vamba.data.text import EncodedText
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.init import init_weights_
from vamba.model.vamba import Vamba


def random_config(rng: random.Random) -> ModelConfig:
    """Sizes that share no factor they need not share."""
    head_dim, kv_heads = rng.choice([4, 8, 12]), rng.choice([1, 2, 3])
    hidden = head_dim * kv_heads * rng.choice([1, 2, 3])
    first = rng.randint(0, head_dim // 2)
    second = rng.randint(0, head_dim // 2 - first)
    headdim, expand = rng.choice([1, 2, 4]), 2
    num_heads = expand * hidden // headdim
    return ModelConfig(
        vocab_size=rng.choice([31, 50]),
        hidden_size=hidden,
        intermediate_size=rng.choice([7, 20]),
        num_hidden_layers=rng.choice([1, 2, 3]),
        num_attention_heads=hidden // head_dim,
        num_key_value_heads=kv_heads,
        mrope_section=(first, second, head_dim // 2 - first - second),
        rms_norm_eps=rng.choice([1e-6, 1e-3]),
        rope_theta=rng.choice([100.0, 1e6]),
        tie_word_embeddings=rng.random() < 0.3,
        initializer_range=0.3,
        use_alpha_balancing=rng.random() < 0.8,
        cross_attn_use_position_embeddings=rng.random() < 0.5,
        cross_attn_use_layer_norm=rng.random() < 0.5,
        vision=VisionConfig(
            depth=rng.choice([1, 2]), embed_dim=rng.choice([8, 24]), num_heads=rng.choice([1, 2]),
            mlp_ratio=rng.choice([2.0, 4.0]), hidden_size=hidden,
        ),
        mixer=MixerConfig(
            enable=rng.random() < 0.9, hidden_dim=hidden, d_state=rng.choice([1, 3, 8]), headdim=headdim, expand=expand,
            ngroups=rng.choice([g for g in (1, 2, 3) if num_heads % g == 0]), d_conv=rng.choice([2, 4]),
            chunk_size=rng.choice([1, 3, 8, 64]), dt_limit=rng.choice([(0.0, float("inf")), (0.01, 0.5)]),
        ),
    )  # fmt: skip


def random_sample(rng: random.Random, config: ModelConfig, number: int) -> EncodedSample:
    kinds: list[tuple[Grid, ...]] = [
        (),
        ((1, 2, 4),),
        ((rng.choice([3, 5, 7]), 4, 2),),
        ((1, 4, 4), (2, 2, 6), (1, 2, 2)),
    ]
    grids = rng.choice(kinds)
    numbers = np.random.default_rng(rng.randrange(2**32))
    texts = []
    for _ in range(rng.choice([1, 1, 2])):
        ids = numbers.integers(0, config.vocab_size, rng.choice([2, 7, 13]))
        texts.append(EncodedText(input_ids=ids, labels=np.where(numbers.random(len(ids)) < 0.6, ids, -100)))
    patches = numbers.standard_normal((sum(t * h * w for t, h, w in grids), config.vision.patch_values))
    return EncodedSample(
        id=str(number), patches=patches.astype(np.float32) if grids else None, grid_thws=grids, texts=tuple(texts)
    )


def random_model(rng: random.Random, config: ModelConfig) -> Vamba:
    model = Vamba(config)
    init_weights_(model, rng.randrange(1000))
    generator = torch.Generator().manual_seed(rng.randrange(1000))
    for name, parameter in model.named_parameters():
        if name.endswith("alpha"):
            parameter.data.uniform_(-0.3, 1.3, generator=generator)
        elif "norm" in name or name.endswith((".D", "bias", "ln_q.weight")):
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.2
    return model.double()


@pytest.mark.parametrize("seed", range(24))
def test_random_architectures(seed: int) -> None:
    rng = random.Random(seed)
    config = random_config(rng)
    model = random_model(rng, config)
    samples = [random_sample(rng, config, number) for number in range(rng.choice([1, 3]))]
    batch = collate(samples)
    packed = model(batch)
    parameters = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    expected, losses = [], []
    for sample in samples:
        patches = None if sample.patches is None else torch.from_numpy(sample.patches).double()
        for text in sample.texts:
            ids = text.input_ids.tolist()
            made = oracle.logits(config, parameters, patches, sample.grid_thws, ids)
            expected.append(made)
            labels = torch.from_numpy(text.labels)
            losses.append(torch.nn.functional.cross_entropy(made[:-1], labels[1:], reduction="sum", ignore_index=-100))
    close(packed, torch.cat(expected), "logits")
    total, count = model.loss(batch)
    close(total, sum(losses), "loss")
    assert count == sum(int((text.labels[1:] != -100).sum()) for sample in samples for text in sample.texts)
    model.zero_grad()
    total.backward()
    sum(losses).backward()
    for name, parameter in model.named_parameters():
        wanted = parameters[name].grad
        close(zero_or(parameter.grad, parameter), zero_or(wanted, parameter), name)


def zero_or(gradient: Any, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if gradient is None else gradient


def close(actual: torch.Tensor, expected: Any, what: str) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-10, msg=lambda text: f"{what}: {text}")
