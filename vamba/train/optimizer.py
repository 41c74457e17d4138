"""AdamW over the local shards of the trainable parameters.

torch's optimizer classes work on the parameters themselves; under FSDP2 those are DTensors, and for a small model the
dispatch of each of their operations costs more than the arithmetic. Here torch's functional AdamW runs, fused, on
the local tensors behind them. State is kept by parameter name, complete from the start (a parameter that never gets a
gradient has zero state, so that a checkpoint always holds the same names), and handed out as DTensors for saving.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.optim.adamw import adamw

from vamba.train.config import OptimizerConfig
from vamba.train.trainable import decays


class ShardedAdamW:
    """AdamW (Loshchilov and Hutter, arXiv 1711.05101) for parameters that may be sharded."""

    def __init__(self, named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimizerConfig) -> None:
        """Only parameters that require gradients get state. Build it after sharding."""
        self.config = config
        self.parameters = {name: parameter for name, parameter in named_parameters if parameter.requires_grad}
        with torch.no_grad():
            self.exp_avg = {name: torch.zeros_like(local(p)) for name, p in self.parameters.items()}
            self.exp_avg_sq = {name: torch.zeros_like(local(p)) for name, p in self.parameters.items()}
            devices = {parameter.device for parameter in self.parameters.values()}
            self._counts = torch.zeros(len(self.parameters), device=devices.pop() if devices else "cpu")
        # Views: one tensor is saved for all of them.
        self.num_updates = dict(zip(self.parameters, self._counts.unbind(), strict=True))

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """Update every parameter that has a gradient, then drop the gradients."""
        updated = [name for name, parameter in self.parameters.items() if parameter.grad is not None]
        self._update([name for name in updated if decays(name)], learning_rate, self.config.weight_decay)
        self._update([name for name in updated if not decays(name)], learning_rate, 0.0)
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget them, whether they were used or not."""
        for parameter in self.parameters.values():
            parameter.grad = None

    def _update(self, names: list[str], learning_rate: float, weight_decay: float) -> None:
        if not names:
            return
        beta1, beta2 = self.config.betas
        adamw(
            [local(self.parameters[name]) for name in names],
            [local(self.parameters[name].grad) for name in names],
            [self.exp_avg[name] for name in names],
            [self.exp_avg_sq[name] for name in names],
            [],
            [self.num_updates[name] for name in names],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=learning_rate,
            weight_decay=weight_decay,
            eps=self.config.eps,
            maximize=False,
        )

    def state_tensors(self) -> dict[str, torch.Tensor]:
        """State by "<parameter>.<kind>", sharded like its parameter, and the updates of each parameter in order.

        Loading into these tensors restores the state.
        """
        tensors: dict[str, torch.Tensor] = {"num_updates": self._counts}
        for name, parameter in self.parameters.items():
            tensors[f"{name}.exp_avg"] = _like(self.exp_avg[name], parameter)
            tensors[f"{name}.exp_avg_sq"] = _like(self.exp_avg_sq[name], parameter)
        return tensors


def local(tensor: torch.Tensor | None) -> torch.Tensor:
    """The part of a tensor that this rank holds. Call it without gradients enabled."""
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _like(shard: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    if not isinstance(parameter, DTensor):
        return shard
    return DTensor.from_local(
        shard,
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
