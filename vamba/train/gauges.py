"""What a step can tell about itself at no extra exchange between ranks: its work, gradient norms by group, alphas.

The values that have to be added up over ranks are a few numbers at the end of the one all-reduce of `train_step`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from vamba.data.reader import StepInput
from vamba.model.config import ModelConfig
from vamba.model.flops import StepWork, pack_shape

_GROUPS = (
    ("merger", r"visual\.merger\..*"),
    ("vision_tower", r"visual\..*"),
    ("mixers", r".*\.vision_mixer\..*"),
    ("cross_attention", r".*\.cross_attn\..*"),
    ("alpha", r"(.*\.)?alpha"),
    ("embeddings_and_head", r"(.*\.)?(embed_tokens|lm_head)\..*"),
    ("self_attention_and_mlp", r"model\..*"),
    ("other", r".*"),
)
"""Groups of parameters by whole name; the first that matches counts."""

_ADAPTER = ".lora_A.default.weight"
"""peft's name for an adapter's first factor, (rank, inputs)."""


def group_of(name: str) -> str:
    """The group whose gradient norm parameter `name` is part of."""
    return next(group for group, pattern in _GROUPS if re.fullmatch(pattern, name))


class Gauges:
    """Measures the steps of one model."""

    def __init__(self, model: nn.Module, trained: Mapping[str, nn.Parameter]) -> None:
        """trained: the parameters that get gradients, by name."""
        self.groups = tuple(dict.fromkeys(map(group_of, trained)))
        self._group_of = {id(p): self.groups.index(group_of(name)) for name, p in trained.items()}
        self._alphas = [p for name, p in model.named_parameters() if group_of(name) == "alpha"]
        self._members: dict[tuple[int, ...], Tensor] = {}
        self._work = _work_of(model, trained)

    def flops(self, inputs: StepInput) -> int:
        """Operations of this rank's share of a step that count; 0 where the model's are not known."""
        if self._work is None:
            return 0
        return sum(self._work.flops(pack_shape(micro.batch)) for micro in inputs.micro_batches if micro.counts)

    def by_group(self, parameters: Sequence[nn.Parameter], squares: Tensor) -> Tensor:
        """float64[groups]: sums of `squares`, one of each parameter, by its group."""
        sums = torch.zeros(len(self.groups), dtype=torch.float64, device=squares.device)
        if not parameters:
            return sums
        members = tuple(self._group_of[id(p)] for p in parameters)
        if members not in self._members:
            self._members[members] = torch.tensor(members, device=squares.device)
        return sums.index_add_(0, self._members[members], squares)

    def norms(self, sums: Sequence[float], scale: float) -> dict[str, float]:
        """Norm of each group from its sum of squares, times `scale`."""
        return {group: math.sqrt(value) * scale for group, value in zip(self.groups, sums, strict=True)}

    @torch.no_grad()
    def alphas(self) -> tuple[float, ...]:
        """Weight of self-attention over cross-attention in each layer, in order."""
        return tuple(torch.stack([p.detach().reshape(()) for p in self._alphas]).tolist()) if self._alphas else ()


def _work_of(model: nn.Module, trained: Collection[str]) -> StepWork | None:
    config = getattr(model, "config", None)
    if not isinstance(config, ModelConfig):
        return None
    own = {name.replace(".base_layer.", ".") for name in trained if ".lora_" not in name}
    first = {name: p for name, p in model.named_parameters() if name.endswith(_ADAPTER)}
    try:
        return StepWork(config, own, {name.removesuffix(_ADAPTER): p.shape[0] for name, p in first.items()})
    except ValueError:  # parts that are not of the architecture
        return None
