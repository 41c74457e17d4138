"""A training step that fits one GPU: which memory each value takes, and the update.

trained   weight, as computed with    bfloat16    2 bytes       7B, stage 1: 3.02 of 11.31 billion values
          weight, as updated          float32     4 bytes
          gradient, summed            float32     4 bytes       autograd's own is added as soon as it is there
          two moments                 bfloat16    4 bytes
frozen    weight                      bfloat16    2 bytes       58.9 GB (54.8 GiB) in all
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from vamba.model.init import NEW_PARTS
from vamba.model.vamba import Vamba
from vamba.train.trainable import decays, select_trainable

_RATE, _BETAS, _EPS, _DECAY, _CLIP = 1e-5, (0.9, 0.95), 1e-8, 0.01, 1.0


class TrainStep:
    """Optimizer and sums of gradients of the first stage's parameters. `close` lets go of the model."""

    def __init__(self, model: Vamba, moments: torch.dtype = torch.bfloat16) -> None:
        self._model = model
        select_trainable(model, [f".*({NEW_PARTS}).*"])
        self._trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self._weights = {name: p.detach().to(torch.float32, copy=True) for name, p in self._trained.items()}
        self._sums = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}
        self._first, self._second = (
            {name: torch.zeros_like(weight, dtype=moments) for name, weight in self._weights.items()} for _ in range(2)
        )
        self._reached: set[str] = set()
        self._updates = 0
        self._hooks = [
            p.register_post_accumulate_grad_hook(partial(self._add, name)) for name, p in self._trained.items()
        ]

    @property
    def num_trained(self) -> int:
        return sum(p.numel() for p in self._trained.values())

    def _add(self, name: str, parameter: nn.Parameter) -> None:
        self._sums[name].add_(parameter.grad)  # type: ignore[arg-type]
        parameter.grad = None
        self._reached.add(name)

    @torch.no_grad()
    def update(self, num_loss_tokens: int) -> Tensor:
        """Clip the mean's gradient, apply AdamW, forget the sums; the gradient's norm, on the device."""
        self._updates += 1
        names = sorted(self._reached)
        norm = torch.stack(torch._foreach_norm([self._sums[name] for name in names])).norm() / num_loss_tokens
        scale = (_CLIP / (norm + 1e-6)).clamp(max=1.0) / num_loss_tokens
        for name in names:
            self._update(name, self._sums[name].mul_(scale))
            self._sums[name].zero_()
        self._reached.clear()
        self._model.constrain_()
        return norm

    def _update(self, name: str, gradient: Tensor) -> None:
        beta1, beta2 = _BETAS
        first = self._first[name].to(torch.float32).lerp_(gradient, 1 - beta1)
        self._first[name].copy_(first)
        second = self._second[name].to(torch.float32).mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        self._second[name].copy_(second)
        if decays(name):
            self._weights[name].mul_(1 - _RATE * _DECAY)
        rate = _RATE / (1 - beta1**self._updates)
        size = (second / (1 - beta2**self._updates)).sqrt_().add_(_EPS)
        self._weights[name].addcdiv_(first, size, value=-rate)
        self._trained[name].copy_(self._weights[name])

    def close(self) -> None:
        """Remove what was put on the model, and stop training it."""
        for hook in self._hooks:
            hook.remove()
        self._model.zero_grad(set_to_none=True)
        self._model.requires_grad_(False)
