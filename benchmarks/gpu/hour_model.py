"""A model of any size with random weights, filled where it will run: bfloat16, what is sensitive in float32.

Matrices keep activations near 1, small tensors (norms, biases, the scan's) are those of a fresh model.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from benchmarks.gpu.machine import Machine
from vamba.model.config import ModelConfig
from vamba.model.init import initial_value
from vamba.model.vamba import Vamba
from vamba.ops.backends import Backends, available
from vamba.parallel.sharding import is_full_precision

_SMALL = 1 << 16
"""Values that the host may draw."""


def backends_of(machine: Machine) -> Backends:
    """The last in the list of what can run: the kernels where there are some, in Triton's interpreter too."""
    scan, conv = (available(operation, machine.device)[-1] for operation in ("scan", "conv"))
    return Backends(scan=scan, conv=conv, attention="sdpa")


def random_model(config: ModelConfig, machine: Machine, dtype: torch.dtype, backends: Backends | None = None) -> Vamba:
    """On the machine's device, with nothing to be trained."""
    with torch.device("meta"):
        model = Vamba(config, backends or Backends(attention="sdpa"), machine.device)
    for name, parameter in model.named_parameters():
        parameter.data = parameter.data.to(torch.float32 if is_full_precision(name) else dtype)
    model.to_empty(device=machine.device)
    generator = torch.Generator(machine.device).manual_seed(0)
    with torch.no_grad():
        for module_name, module in model.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                _fill(f"{module_name}.{name}", parameter, config, generator, is_norm="Norm" in type(module).__name__)
    return model.requires_grad_(False).eval()


def _fill(
    name: str, parameter: nn.Parameter, config: ModelConfig, generator: torch.Generator, *, is_norm: bool
) -> None:
    if parameter.numel() <= _SMALL:
        value = initial_value(name, tuple(parameter.shape), config, 0, is_norm=is_norm)
        parameter.copy_(value.to(parameter.dtype))
        return
    deviation = config.initializer_range
    if name.endswith("mixer.out_proj.weight"):
        deviation = 1 / math.sqrt(3 * parameter.shape[1] * config.num_hidden_layers)
    parameter.normal_(0.0, deviation, generator=generator)
