"""A step in which FSDP's units stay whole: gathered once, their gradients reduced once, whatever runs in between.

    gathered(model):   all-gather every unit ──> any passes, none of which exchanges anything ──> reduce every gradient

A streamed pass runs a layer as often as its video has chunks, and ranks have videos of different lengths: collectives
inside would not meet. So all ranks issue the same ones at the begin and at the end, and each decides alone what it runs
between them. It takes the memory of the whole model in the compute dtype, and of all trained gradients in float32.

Gradients are kept in the compute dtype by autograd. `fold` adds them to FSDP's float32 sums, as it does by itself after the
backward pass of each of several micro-batches; here it is asked for after every chunk.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, register_fsdp_forward_method


def fsdp_modules(model: nn.Module) -> Iterator[FSDPModule]:
    """The modules that are FSDP units."""
    return (module for module in model.modules() if isinstance(module, FSDPModule))


def register_fold(model: Any) -> None:
    """Give a sharded model the pass through nothing that `gathered` needs. To be called once, after sharding."""
    model.pass_through = _pass_through
    register_fsdp_forward_method(model, "pass_through")


def gather(model: Any) -> None:
    """Make every unit whole, until it is resharded. Collective; nothing for a model that is not sharded."""
    if not _is_sharded(model):
        return
    with torch.no_grad():
        model.pass_through(_nothing(model))  # FSDP knows the root by the first forward pass
    for unit in fsdp_modules(model):
        unit.unshard()


@contextmanager
def gathered(model: Any) -> Iterator[Callable[[], None]]:
    """Hold every unit whole; gives the function that folds gradients. Collective, and nothing inside is.

    A model that is not sharded is left as it is, and there is nothing to fold.
    """
    if not _is_sharded(model):
        yield lambda: None
        return
    model.set_requires_gradient_sync(False)
    model.set_reshard_after_backward(False)
    gather(model)
    yield lambda: _fold(model)
    model.set_requires_gradient_sync(True)
    model.set_reshard_after_backward(True)
    _fold(model)


def _is_sharded(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def _fold(model: Any) -> None:
    """A backward pass through the root alone: after any, FSDP does for all units what is to be done with gradients."""
    with torch.enable_grad():
        model.pass_through(_nothing(model).requires_grad_()).backward()


def _nothing(model: nn.Module) -> Tensor:
    return torch.zeros((), device=next(model.parameters()).device)


def _pass_through(x: Tensor) -> Tensor:
    return x.clone()
