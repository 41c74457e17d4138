"""Cross-attention over keys and values that several ranks hold in part: what each sees is merged over all of them.

    forward    own parts: (out, lse) ── max of lse over ranks ── sum of (exp(lse - max) out, exp(lse - max)) ──> out, lse
    backward   sum of the gradients of out over ranks ──> own parts: (dk, dv) in their place, and dq as far as they go

Every rank runs the same text, but the loss counts at one of them. So a gradient at a rank is its share of the whole one,
for the text's parameters as for the video's, and the sum over ranks that training takes anyway is the gradient. Here
the shares meet: the output is one sum over ranks, so each of them needs the gradients of all.

Shapes: T queries, H query heads, D values per head.
"""  # noqa: E501

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vamba.ops.attention.partial import Groups, Parts, Reading


class MergedReading(Reading):
    """A `Reading` of the parts of all ranks of a process group. Collective: all of them read, and go backward."""

    def __init__(self, parts: Parts, groups: Groups, group: Any) -> None:
        """parts: this rank's."""
        super().__init__(parts, groups)
        self._group = group

    def __call__(self, q_THD: Tensor) -> Tensor:
        out: Tensor = _OfAllRanks.apply(super().__call__(q_THD), self._group)
        return out

    def found(self, q_THD: Tensor) -> tuple[Tensor, Tensor]:
        if self._found is None:
            self._found = merge_over_ranks(*super().found(q_THD), self._group)
        return self._found


def merge_over_ranks(out_THD: Tensor, lse_TH: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """(out, lse) over the keys of all ranks of a process group, the same on each; a rank may have seen none."""
    most_TH = lse_TH.clone()
    dist.all_reduce(most_TH, dist.ReduceOp.MAX, group=group)
    most_TH = most_TH.masked_fill(most_TH == -math.inf, 0.0)
    weight_TH1 = torch.exp(lse_TH - most_TH)[..., None]
    summed = torch.cat([out_THD * weight_TH1, weight_TH1], dim=-1)
    dist.all_reduce(summed, group=group)
    total_TH1 = summed[..., -1:]
    return summed[..., :-1] / total_TH1, most_TH + total_TH1[..., 0].log()


class _OfAllRanks(torch.autograd.Function):
    """The same values; their gradient is the sum over ranks."""

    @staticmethod
    def forward(ctx: Any, out_THD: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return out_THD.view_as(out_THD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, None]:
        summed_THD = grad_THD.to(torch.promote_types(grad_THD.dtype, torch.float32), copy=True).contiguous()
        dist.all_reduce(summed_THD, group=ctx.group)
        return summed_THD.to(grad_THD.dtype), None
