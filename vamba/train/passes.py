"""Forward and backward of one batch, whole or with its video streamed; gradients of the summed loss are added.

without streaming   each pass gathers and lets go; gradients are reduced in the last one of a step
with streaming      all units stay whole from the first pass to the last, so that ranks may differ in what they run
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from vamba.data.batch import Batch
from vamba.parallel.gathered import gathered
from vamba.parallel.sharding import set_gradient_sync
from vamba.streaming.training import forward_backward, loss_of
from vamba.train.state import TrainState


class Pass(Protocol):
    """One batch forward and backward."""

    def __call__(self, batch: Batch, *, counts: bool, is_last: bool) -> tuple[Tensor, int]:
        """(summed loss without a graph, number of its tokens). counts: otherwise its gradients are zeros. is_last: of a
        step."""


@contextmanager
def passes(state: TrainState) -> Iterator[Pass]:
    """The passes of one step; gradients are whole when it is left. Collective."""
    plan = state.streaming

    def whole(batch: Batch, *, counts: bool, is_last: bool) -> tuple[Tensor, int]:
        if plan is None:
            set_gradient_sync(state.model, is_last)
        loss_sum, num_loss_tokens = state.model.loss(_on_device(state, batch))
        (loss_sum if counts else loss_sum * 0.0).backward()
        return loss_sum.detach(), num_loss_tokens

    if plan is None:
        yield whole
        return
    with gathered(state.model) as fold:

        def either(batch: Batch, *, counts: bool, is_last: bool) -> tuple[Tensor, int]:
            if not plan.streams(batch):
                return whole(batch, counts=counts, is_last=is_last)
            return forward_backward(state.model, batch, plan, device=state.device, counts=counts, after_chunk=fold)

        yield either


@torch.no_grad()
def loss_alone(state: TrainState, batch: Batch) -> tuple[Tensor, int]:
    """(summed loss, number of its tokens) of one batch. With streaming, the units are whole already (`gather`)."""
    if state.streaming is not None and state.streaming.streams(batch):
        return loss_of(state.model, batch, state.streaming, device=state.device)
    loss_sum, num_loss_tokens = state.model.loss(_on_device(state, batch))
    return loss_sum, num_loss_tokens


def _on_device(state: TrainState, batch: Batch) -> Batch:
    is_there = state.device.type == "cpu" and batch.processing is None  # frames are not what the model takes
    return batch if is_there else batch.to(state.device, non_blocking=True)
