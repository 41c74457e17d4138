"""What a step tells about itself is right, and the same whichever way its gradients came about."""

from __future__ import annotations

import math

import pytest
import torch

from tests.vamba.model.samples import random_sample
from vamba.data.batch import collate
from vamba.data.plan import PlanState
from vamba.data.reader import MicroBatch, StepInput
from vamba.model.flops import StepWork, pack_shape
from vamba.model.init import init_weights_
from vamba.model.presets import PRESETS
from vamba.model.vamba import Vamba
from vamba.train.config import TrainConfig
from vamba.train.gauges import group_of
from vamba.train.state import TrainState
from vamba.train.step import train_step
from vamba.train.trainable import select_trainable

START = PlanState(step=0, epoch=0, epoch_step=0, seed=0, fingerprint="f")
BATCH = collate([random_sample(1, ((2, 4, 4),), (9,)), random_sample(2, ((1, 4, 4),), (7,))])


def inputs_of(*counts: bool) -> StepInput:
    micro = tuple(MicroBatch(batch=BATCH, pack_index=i, counts=value) for i, value in enumerate(counts))
    return StepInput(micro_batches=micro, sample_ids=("a",), epoch=0, media="video")


def state_of(*trainable: str) -> TrainState:
    model = Vamba(PRESETS["tiny"])
    init_weights_(model, 0)
    select_trainable(model, trainable)
    return TrainState(model, TrainConfig(), num_steps=10, reader_state=START)


def test_every_parameter_of_the_model_has_a_named_group() -> None:
    names = [name for name, _ in Vamba(PRESETS["tiny"]).named_parameters()]
    assert {group_of(name) for name in names} == {
        "vision_tower", "merger", "mixers", "cross_attention", "alpha", "embeddings_and_head", "self_attention_and_mlp"
    }  # fmt: skip
    assert group_of("visual.merger.mlp.0.weight") == "merger"
    assert group_of("model.layers.0.input_layernorm.weight") == "self_attention_and_mlp"


def test_norms_by_group_are_those_of_the_mean_loss_and_add_up_to_the_whole() -> None:
    state, reference = state_of(".*"), state_of(".*").model
    result = train_step(state, inputs_of(True, True))
    loss, num_tokens = reference.loss(BATCH)
    (loss / num_tokens).backward()
    for group, norm in result.grad_norms.items():
        grads = [p.grad for name, p in reference.named_parameters() if group_of(name) == group and p.grad is not None]
        assert norm == pytest.approx(math.sqrt(sum(float(grad.square().sum()) for grad in grads)), rel=1e-5), group
    assert math.hypot(*result.grad_norms.values()) == pytest.approx(result.grad_norm, rel=1e-6)


def test_frozen_groups_are_left_out() -> None:
    result = train_step(state_of(".*(cross_attn|alpha).*"), inputs_of(True))
    assert set(result.grad_norms) == {"cross_attention", "alpha"}


def test_alphas_are_those_the_step_used() -> None:
    state = state_of(".*")
    before = [float(layer.alpha.detach()) for layer in state.model.model.hybrid_layers]
    result = train_step(state, inputs_of(True))
    assert list(result.alphas) == before
    assert [float(layer.alpha.detach()) for layer in state.model.model.hybrid_layers] != before


def test_operations_are_counted_for_packs_that_count() -> None:
    state = state_of(".*")
    work = StepWork(PRESETS["tiny"], state.optimizer.parameters)
    result = train_step(state, inputs_of(True, True, False))
    assert result.flops == 2 * work.flops(pack_shape(BATCH))


def test_an_adapter_leaves_the_operations_unknown() -> None:
    state = state_of(".*")
    model = state.model
    model.register_parameter("adapter", torch.nn.Parameter(torch.zeros(2)))
    adapted = TrainState(model, TrainConfig(), num_steps=10, reader_state=START)
    assert train_step(adapted, inputs_of(True)).flops == 0
