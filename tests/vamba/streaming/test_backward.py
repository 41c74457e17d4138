"""Gradients of a streamed batch are those of one pass: every parameter, any cut, whatever is trained."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.vamba.model.samples import CONFIG, FLAGS, SAMPLES, random_model, random_sample
from vamba.data.batch import Batch, collate
from vamba.data.text import TeacherLogits
from vamba.model.vamba import Vamba
from vamba.streaming.training import StreamingPlan, forward_backward, loss_of

CPU = torch.device("cpu")
PACKED = collate(SAMPLES)
ALONE = collate([random_sample(7, ((5, 4, 6), (1, 2, 4)), (11,))])


def gradients(model: Vamba) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_pass(model: Vamba, batch: Batch) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    loss, _ = model.loss(batch)
    loss.backward()
    return float(loss), gradients(model)


def streamed(model: Vamba, batch: Batch, size: int) -> tuple[float, dict[str, Tensor]]:
    model.zero_grad()
    plan = StreamingPlan(above_tokens=0, chunk_tokens=size)
    loss, num_loss_tokens = forward_backward(model, batch, plan, device=CPU)
    assert num_loss_tokens == batch.num_loss_tokens
    return float(loss), gradients(model)


def assert_equal(model: Vamba, batch: Batch, size: int, tolerance: float = 1e-12) -> None:
    (wanted_loss, wanted), (loss, actual) = one_pass(model, batch), streamed(model, batch, size)
    assert loss == pytest.approx(wanted_loss, rel=tolerance)
    assert actual.keys() == wanted.keys()
    largest = max(float(grad.norm()) for grad in wanted.values())
    for name, grad in wanted.items():
        # Without rotated keys their bias moves all scores of a query alike: its gradient is rounding, and nothing else.
        floor = largest if name.endswith("cross_attn.k_proj.bias") else float(grad.norm())
        assert float((actual[name] - grad).norm()) <= tolerance * max(floor, 1e-3 * largest), name


@pytest.mark.parametrize("flags", [*FLAGS, {"tie_word_embeddings": True}, {"num_hidden_layers": 1}], ids=str)
@pytest.mark.parametrize(("batch", "size"), [(PACKED, 7), (PACKED, 16), (ALONE, 13), (ALONE, 1000)], ids=str)
def test_every_gradient_in_float64(batch: Batch, size: int, flags: dict[str, Any]) -> None:
    assert_equal(random_model(**flags), batch, size)
