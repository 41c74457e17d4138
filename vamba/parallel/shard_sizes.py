"""What one rank holds of a model that was sharded: counted from its parameters, on any device, also on meta."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from vamba.parallel.gathered import fsdp_modules
from vamba.parallel.sharding import is_full_precision


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """Parameters that FSDP gathers together. Sizes are numbers of values, of all ranks together."""

    name: str
    size: int
    trainable: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardSizes:
    """Numbers of values. local: what this rank holds; rank 0 holds the most, and others allocate as much (padding).

    local_narrow: of `local`, those held in bfloat16. local_matrices, frozen_matrices: of the others, those that may be
    computed with in bfloat16, and of these the frozen ones.
    units: the root first, then in the order of the model. None where nothing is sharded.
    """

    total: int
    trainable: int
    local: int
    local_narrow: int
    local_trainable: int
    local_matrices: int
    frozen_matrices: int
    units: tuple[Unit, ...]


def shard_sizes(model: nn.Module) -> ShardSizes:
    """Count a model, sharded (`shard_model`) or whole, whose trainable set is selected."""
    names = {module: name for name, module in model.named_modules()}
    owners = sorted((names[module] for module in fsdp_modules(model)), key=len, reverse=True)
    units = {owner: [0, 0] for owner in reversed(owners)}
    counts = dict.fromkeys(
        ("total", "trainable", "local", "local_narrow", "local_trainable", "local_matrices", "frozen_matrices"), 0
    )
    for name, parameter in model.named_parameters():
        own = (parameter.to_local() if isinstance(parameter, DTensor) else parameter).numel()
        is_narrow = parameter.dtype == torch.bfloat16
        is_matrix = not is_narrow and not is_full_precision(name)
        counts["total"] += parameter.numel()
        counts["local"] += own
        counts["local_narrow"] += own * is_narrow
        counts["local_matrices"] += own * is_matrix
        counts["frozen_matrices"] += own * (is_matrix and not parameter.requires_grad)
        counts["trainable"] += parameter.numel() * parameter.requires_grad
        counts["local_trainable"] += own * parameter.requires_grad
        if isinstance(parameter, DTensor):
            unit = units[next(owner for owner in owners if owner == "" or name.startswith(f"{owner}."))]
            unit[0] += parameter.numel()
            unit[1] += parameter.numel() if parameter.requires_grad else 0
    order = [name for name in names.values() if name in units]
    return ShardSizes(
        **counts,
        units=tuple(Unit(name=n or "root", size=units[n][0], trainable=units[n][1]) for n in order if units[n][0]),
    )
