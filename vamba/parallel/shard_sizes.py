"""What one rank holds of a model that was sharded: counted from its parameters, on any device, also on meta."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.distributed.tensor import DTensor

from vamba.parallel.gathered import fsdp_modules


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Parameters that FSDP gathers together. Sizes are numbers of values, of all ranks together."""

    name: str
    size: int
    trainable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSizes:
    """Numbers of values. local: what this rank holds; rank 0 holds the most, and others allocate as much (padding).

    units: the root first, then in the order of the model. None where nothing is sharded.
    """

    total: int
    trainable: int
    local: int
    local_trainable: int
    units: tuple[Unit, ...]


def shard_sizes(model: nn.Module) -> ShardSizes:
    """Count a model, sharded (`shard_model`) or whole, whose trainable set is selected."""
    names = {module: name for name, module in model.named_modules()}
    owners = sorted((names[module] for module in fsdp_modules(model)), key=len, reverse=True)
    units = {owner: [0, 0] for owner in reversed(owners)}
    total = trainable = local = local_trainable = 0
    for name, parameter in model.named_parameters():
        own = parameter.to_local() if isinstance(parameter, DTensor) else parameter
        total, local = total + parameter.numel(), local + own.numel()
        if parameter.requires_grad:
            trainable, local_trainable = trainable + parameter.numel(), local_trainable + own.numel()
        if isinstance(parameter, DTensor):
            unit = units[next(owner for owner in owners if owner == "" or name.startswith(f"{owner}."))]
            unit[0] += parameter.numel()
            unit[1] += parameter.numel() if parameter.requires_grad else 0
    order = [name for name in names.values() if name in units]
    return ShardSizes(
        total=total,
        trainable=trainable,
        local=local,
        local_trainable=local_trainable,
        units=tuple(Unit(name=n or "root", size=units[n][0], trainable=units[n][1]) for n in order if units[n][0]),
    )
