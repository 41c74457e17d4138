"""The estimate of activations against what autograd saves on a CPU."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from tests.vamba.model.samples import random_sample
from vamba.data.batch import collate
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.init import init_weights_
from vamba.model.vamba import Vamba
from vamba.parallel.activation_memory import PackShape, activation_memory
from vamba.train.trainable import select_trainable

CONFIG = ModelConfig(
    vocab_size=64,
    hidden_size=128,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    mrope_section=(4, 6, 6),
    vision=VisionConfig(depth=3, embed_dim=80, num_heads=2, hidden_size=128),
    mixer=MixerConfig(enable=True, hidden_dim=128, d_state=16, headdim=32, chunk_size=64),
)
STATES = CONFIG.mixer.d_inner * CONFIG.mixer.d_state // CONFIG.mixer.chunk_size * 4  # bytes, a token and mixer
STAGES = {"all": [".*"], "stage 1": [".*(cross_attn|vision_mixer|alpha).*"], "stage 2": ["visual.merger.*", "model.*"]}


class FusedScan(torch.autograd.Function):
    """Keeps its inputs and nothing inside, as a fused kernel does."""

    @staticmethod
    def forward(ctx: Any, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*inputs)
        return inputs[0].clone()


def saved_bytes(model: Vamba, batch: Any) -> int:
    """Of all tensors that autograd keeps for the backward pass, parameters aside, each storage once."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    storages: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        storages.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model.loss(batch)
    return sum(t.untyped_storage().nbytes() for place, t in storages.items() if place not in parameters)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("policy", ["none", "layer"])
@pytest.mark.parametrize(("text_length", "grid"), [(400, (1, 4, 4)), (4, (16, 16, 16))], ids=["text", "video"])
def test_the_estimate_is_what_autograd_keeps(
    stage: str, policy: Literal["none", "layer"], text_length: int, grid: tuple[int, int, int]
) -> None:
    """Where all weights are trained. Frozen ones let autograd keep less; the estimate is then on the safe side."""
    model = Vamba(CONFIG, device="cpu")
    init_weights_(model, seed=0)
    select_trainable(model, STAGES[stage])
    model.set_activation_checkpointing(policy == "layer")
    for layer in model.model.hybrid_layers:
        mixer = layer.vision_mixer.mixer
        mixer.ops = replace(mixer.ops, scan=lambda *inputs, **_: (FusedScan.apply(*inputs), None))
    batch = collate([random_sample(1, (grid,), (text_length,))])
    pack = PackShape(
        num_text_tokens=batch.num_text_tokens,
        num_video_tokens=batch.num_video_tokens,
        num_labelled=batch.num_loss_tokens,
    )
    estimate = activation_memory(
        CONFIG, pack, policy=policy, compute_bytes=4, trains_blocks=stage == "all", trains_merger=stage != "stage 1"
    )
    states = 3 * STATES * batch.num_video_tokens if policy == "none" else 0  # FusedScan has none
    ratio = (estimate.kept_layers + estimate.kept_vision + estimate.kept_logits - states) / saved_bytes(model, batch)
    assert 0.85 < ratio < (1.1 if stage == "all" else 1.45)


def test_a_longer_pack_takes_more_and_recomputing_less() -> None:
    short, long = (PackShape(num_text_tokens=64, num_video_tokens=n, num_labelled=32) for n in (1000, 8000))
    model = ModelConfig()
    kept = [activation_memory(model, pack, policy="layer", compute_bytes=2).kept_layers for pack in (short, long)]
    assert kept[0] < kept[1] < activation_memory(model, long, policy="none", compute_bytes=2).kept_layers / 10
