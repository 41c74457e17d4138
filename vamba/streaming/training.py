"""A batch's loss and gradients with its video streamed: the same numbers as `model.loss` and `backward`, in flat memory.

    StreamingPlan (which batches, how large a chunk) ── forward_backward(model, batch) ──> loss, its gradients added
                                                     └─ loss_of(model, batch)          ──> loss alone

Whether a batch is streamed follows from the batch and the configuration, never from the memory that happens to be free: a
run that is continued takes the same path, bit for bit.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vamba.data.batch import Batch
from vamba.ops.attention.partial import Groups
from vamba.streaming.backward import StreamedVideo
from vamba.streaming.chunks import cut
from vamba.streaming.pixels import Pixels, without_pixels
from vamba.streaming.spread import Here, Spread
from vamba.streaming.store import DeviceStore, StoredKeysValues, TensorStore
from vamba.streaming.tower import TowerPass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamingPlan:
    """above_tokens: a batch with more video tokens is streamed. chunk_tokens: video tokens that have a graph at once.
    open_store: makes the place of what is kept between the passes over one batch. spread: where its chunks run."""

    above_tokens: int
    chunk_tokens: int
    open_store: Callable[[], TensorStore] = DeviceStore
    spread: Spread = Here()

    def streams(self, batch: Batch) -> bool:
        """Whether a batch is streamed."""
        return batch.video is not None and batch.num_video_tokens > self.above_tokens


class _Streamed:
    """A batch whose video has run, in chunks, into a store."""

    def __init__(self, model: Any, batch: Batch, plan: StreamingPlan, device: torch.device, store: TensorStore) -> None:
        assert batch.video is not None and batch.cross is not None
        size = plan.spread.chunk_tokens(batch.num_video_tokens, plan.chunk_tokens)
        chunks = plan.spread.own(cut(batch.video.cu_seqlens.tolist(), size))
        groups = Groups.of(batch.cross)
        self.batch = without_pixels(batch).to(device, non_blocking=True)
        assert self.batch.video is not None and self.batch.cross is not None
        tower = TowerPass(model.visual, Pixels(batch, device), store)
        self.video = StreamedVideo(model, self.batch.video, tower, store, chunks)
        carry = plan.spread.carry(model, chunks, backward=False)
        self.video.forward(carry, for_backward=torch.is_grad_enabled())
        groups = groups._replace(query_tokens=self.batch.cross.query_tokens)
        carry.close()
        layers = range(len(model.model.hybrid_layers))
        self.reads = tuple(plan.spread.reading(StoredKeysValues(store, layer), groups) for layer in layers)


def forward_backward(
    model: Any,
    batch: Batch,
    plan: StreamingPlan,
    *,
    device: torch.device,
    counts: bool = True,
    after_chunk: Callable[[], None] = lambda: None,
) -> tuple[Tensor, int]:
    """(summed loss without a graph, number of its tokens); its gradients, if the batch counts, else zeros, are added.

    batch: on the host, or on the model's device; its pixels go there a chunk at a time. after_chunk: called whenever
    gradients of a chunk have been added.
    """
    store = plan.open_store()
    try:
        streamed = _Streamed(model, batch, plan, device, store)
        loss_sum, num_loss_tokens = model.loss(streamed.batch, streamed.reads)
        (loss_sum if counts else loss_sum * 0.0).backward()
        assert all(read.is_spent for read in streamed.reads)
        carry = plan.spread.carry(model, streamed.video.chunks, backward=True)
        streamed.video.backward(carry, after_chunk)
        carry.close()
    finally:
        store.close()
    return loss_sum.detach(), num_loss_tokens


@torch.no_grad()
def loss_of(model: Any, batch: Batch, plan: StreamingPlan, *, device: torch.device) -> tuple[Tensor, int]:
    """(summed loss, number of its tokens) of a batch as in `forward_backward`."""
    store = plan.open_store()
    try:
        streamed = _Streamed(model, batch, plan, device, store)
        loss_sum, num_loss_tokens = model.loss(streamed.batch, streamed.reads)
    finally:
        store.close()
    return loss_sum, num_loss_tokens
