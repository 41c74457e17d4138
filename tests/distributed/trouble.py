"""Losses that are not what they should be: what a broken device, or data that can't be learned from, does to a step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


@contextmanager
def troubled_losses(trouble: Mapping[int, float]) -> Iterator[None]:
    """Losses of the steps in `trouble` are multiplied by what stands there, on the last rank alone."""
    import torch.distributed as dist

    from vamba.train import loop

    train_step = loop.train_step

    def troubled(state: Any, inputs: Any, *, stop: bool = False, save: bool = False) -> Any:
        is_last = not dist.is_initialized() or dist.get_rank() == dist.get_world_size() - 1
        plain, factor = state.model.loss, trouble.get(state.step + 1, 1.0) if is_last else 1.0
        state.model.loss = lambda batch: (plain(batch)[0] * factor, batch.num_loss_tokens)
        try:
            return train_step(state, inputs, stop=stop, save=save)
        finally:
            state.model.loss = plain

    loop.train_step = troubled  # type: ignore[assignment]
    try:
        yield
    finally:
        loop.train_step = train_step
