"""FSDP2 over the Vamba hybrid: which modules are gathered together, and what is never sharded.

    model ── shard_model(mesh) ──> units: vision tower · merger · every hybrid layer · final norm + lm_head · the rest

Scalars and vectors whose precision matters (A_log, D, dt_bias, alpha, norms: well below a thousandth of the parameters)
stay whole and float32 on every rank, because a unit has one compute dtype. FSDP does not see them, so the training step
sums their gradients itself, in the one all-reduce it needs anyway. FSDP's own reduction is a plain sum as well: losses
are divided by global token counts, so the usual division by the number of ranks would be wrong.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method

from vamba.parallel.config import ParallelConfig
from vamba.parallel.gathered import fsdp_modules, register_fold

FULL_PRECISION = re.compile(r"(.*\.)?(A_log|D|dt_bias|alpha|(\w*norm\w*|ln_q)\.(weight|bias))")


def is_full_precision(name: str) -> bool:
    """Whether parameter `name` stays float32 and unsharded."""
    return FULL_PRECISION.fullmatch(name) is not None


def shard_model(model: nn.Module, mesh: DeviceMesh | None, config: ParallelConfig) -> None:
    """Shard `model` in place over `mesh`; without a mesh it is left as it is (`vamba.parallel.masters` is for that)."""
    if mesh is None:
        return
    # Layers return views of their last operation; nothing in the model changes them in place.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy()
    if config.compute_dtype == "bfloat16":
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    # Streamed steps hold all units whole from their begin to their end (`vamba.parallel.gathered`).
    reshard = config.reshard_after_forward and not config.streams
    whole = {parameter for name, parameter in model.named_parameters() if is_full_precision(name)}
    shared: dict[str, Any] = {"mesh": mesh, "mp_policy": policy, "ignored_params": whole}
    for modules in _units(model):
        num_parameters = sum(p.numel() for module in modules for p in module.parameters() if p not in whole)
        if num_parameters >= max(1, config.min_unit_parameters):
            fully_shard(modules, reshard_after_forward=reshard, **shared)
    fully_shard(model, reshard_after_forward=False, **shared)
    register_fold(model)
    for method in ("loss", "encode_video"):
        if hasattr(model, method):
            register_fsdp_forward_method(model, method)
    for module in fsdp_modules(model):
        module.set_gradient_divide_factor(1.0)
        module.set_force_sum_reduction_for_comms(True)


def set_gradient_sync(model: nn.Module, enabled: bool) -> None:
    """Whether the next backward reduces gradients: off for all micro-batches of a step but the last."""
    if isinstance(model, FSDPModule):
        model.set_requires_gradient_sync(enabled)


def _units(model: Any) -> Iterator[list[nn.Module]]:
    """Modules of the release's structure to gather together, inner before outer."""
    tower = getattr(model, "visual", None)
    if tower is not None:
        if hasattr(tower, "merger"):
            yield [tower.merger]
        yield [tower]
    decoder = getattr(model, "model", None)
    if decoder is not None:
        for layer in decoder.layers:
            yield [layer]
        if model.lm_head.weight is not decoder.embed_tokens.weight:  # tied weights belong to one unit: the root
            yield [decoder.norm, model.lm_head]
