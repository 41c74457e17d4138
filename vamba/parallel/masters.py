"""A model in bfloat16 and the float32 weights that training changes: mixed precision on one worker.

    parameter, bfloat16 ── backward ──> its gradient, added to the master's as soon as it is there
          ↑                                            │
          └──── publish ──── master, float32 <── AdamW ┘

On several workers FSDP does this with its units. One has nothing to gather: it keeps both copies all the time, and
never more than one gradient in bfloat16. A frozen weight that bfloat16 would round is kept on the host as it was,
because the finished model holds it and the digest of a checkpoint is made of it.

A trained value takes 2 + 4 bytes here, 4 of gradient and 8 of Adam's moments; a frozen one 2.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from vamba.parallel.config import ParallelConfig
from vamba.parallel.sharding import is_full_precision


class Masters:
    """The float32 side of a model that computes in bfloat16, in this process alone."""

    def __init__(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> None:
        """Have `model` compute in `dtype`, in place, but for what stays float32 (`is_full_precision`). Its trainable
        set is selected, and it is where it will run."""
        self._named = dict(model.named_parameters())
        self._trained: list[tuple[nn.Parameter, nn.Parameter]] = []  # (computed with, master)
        self._wide: dict[int, Tensor] = {}  # by the parameter that is computed with
        self._hooks = []
        for name, parameter in self._named.items():
            if is_full_precision(name) or parameter.dtype != torch.float32:
                continue
            if parameter.requires_grad:
                master = nn.Parameter(parameter.detach())
                self._trained.append((parameter, master))
                self._wide[id(parameter)] = master
                self._hooks.append(parameter.register_post_accumulate_grad_hook(partial(_add_to, master)))
            else:
                self._wide[id(parameter)] = parameter.detach().cpu()
            parameter.data = parameter.detach().to(dtype)

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The model's parameters by name, masters in the place of what they are computed with."""
        for name, parameter in self._named.items():
            kept = self.kept(parameter)
            yield name, kept if isinstance(kept, nn.Parameter) else parameter

    def kept(self, parameter: Tensor) -> Tensor:
        """What is kept of a parameter of the model: its master, a frozen weight as it was, or itself."""
        return self._wide.get(id(parameter), parameter)

    @torch.no_grad()
    def publish(self) -> None:
        """Compute with the masters as they are now."""
        if self._trained:
            computed, masters = zip(*self._trained, strict=True)
            torch._foreach_copy_(list(computed), list(masters))

    def close(self) -> None:
        """Leave the model as it computes, without masters: gradients go to its own parameters again."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._trained, self._wide = [], [], {}


def masters_for(model: nn.Module, config: ParallelConfig) -> Masters | None:
    """Masters of a model that is not sharded; None where it computes in float32 and is its own."""
    return Masters(model) if config.compute_dtype == "bfloat16" else None


@torch.no_grad()
def _add_to(master: nn.Parameter, parameter: Tensor) -> None:
    gradient, parameter.grad = parameter.grad, None
    assert gradient is not None
    if master.grad is None:
        master.grad = gradient.to(torch.float32)
    else:
        master.grad.add_(gradient)
