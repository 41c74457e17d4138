"""Fresh weights, from a seed.

Each parameter draws from its own generator, seeded by (seed, name): the result does not depend on the order of modules,
on the device, or on which rank asks.

Of the new parts (Vamba section 3.2, Mamba-2's published initialisation): alpha 0.5; A ~ U(1, 16); D = 1; dt = logU(1e-3, 0.1)
through the inverse of softplus; input projection N(0, 0.02); convolution and output projection as torch initialises them,
the latter divided by the square root of the number of layers.
"""  # noqa: E501

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor, nn

from vamba.model.config import ModelConfig
from vamba.model.vamba import PackedVamba

NEW_PARTS = r"cross_attn|vision_mixer|alpha"
"""Regular expression: parameters a Qwen2-VL checkpoint does not have (stage 1 trains these alone)."""


@torch.no_grad()
def init_weights_(model: nn.Module, seed: int = 0) -> None:
    """Fill every parameter of a hybrid (a module that is a `PackedVamba`) in place."""
    assert isinstance(model, PackedVamba)
    for name, parameter in model.named_parameters():
        owner = model.get_submodule(name.rpartition(".")[0])
        value = initial_value(name, tuple(parameter.shape), model.architecture, seed, is_norm=_is_norm(owner))
        parameter.copy_(value.to(parameter.dtype))


def initial_value(
    name: str, shape: tuple[int, ...], config: ModelConfig, seed: int, *, is_norm: bool = False
) -> Tensor:
    """The initial value of one parameter, float32, on the CPU."""
    generator = torch.Generator().manual_seed(_seed_of(seed, name))

    def uniform(low: float, high: float) -> Tensor:
        return torch.empty(shape).uniform_(low, high, generator=generator)

    mixer = config.mixer
    part = name.rpartition("vision_mixer.mixer.")[2]
    if name.endswith(".alpha"):
        return torch.full(shape, 0.5)
    if part == "A_log":
        return uniform(*mixer.A_init_range).log()
    if part == "D":
        return torch.ones(shape)
    if part == "dt_bias":
        dt = uniform(math.log(mixer.dt_min), math.log(mixer.dt_max)).exp().clamp(min=mixer.dt_init_floor)
        return dt + torch.log(-torch.expm1(-dt))
    if part.startswith("conv1d."):
        bound = 1 / math.sqrt(mixer.d_conv)
        return uniform(-bound, bound)
    if part == "out_proj.weight":
        bound = 1 / math.sqrt(shape[1] * config.num_hidden_layers)
        return uniform(-bound, bound)
    if is_norm and name.endswith(".weight"):
        return torch.ones(shape)
    if name.endswith(".bias"):
        return torch.zeros(shape)
    if name.endswith("patch_embed.proj.weight"):
        bound = 1 / math.sqrt(math.prod(shape[1:]))
        return uniform(-bound, bound)
    deviation = 0.02 if part == "in_proj.weight" else config.initializer_range
    return torch.empty(shape).normal_(0, deviation, generator=generator)


def _is_norm(module: nn.Module) -> bool:
    return "Norm" in type(module).__name__


def _seed_of(seed: int, name: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
