"""Cross-attention over keys and values that several ranks hold in part: what each sees is merged over all of them.

    forward    own parts: (out, lse) ── max of lse over ranks ── sum of (exp(lse - max) out, exp(lse - max)) ──> out, lse
    backward   sum of the gradients of out over ranks ──> own parts: (dk, dv) in their place, and dq as far as they go

Every rank runs the same text, but the loss counts at one of them. So a gradient at a rank is its share of the whole one,
for the text's parameters as for the video's, and the sum over ranks that training takes anyway is the gradient. Here
the shares meet: the ranks' outputs are one sum, so each of them needs the gradient of all.

Shapes: T queries, H query heads, D values per head.
"""  # noqa: E501

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from vamba.ops.attention.partial import Group, Parts, attend, attend_backward


def merge_over_ranks(out_THD: Tensor, lse_TH: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """(out, lse) over the keys of all ranks of a process group, the same on each; a rank may have seen none."""
    most_TH = lse_TH.clone()
    dist.all_reduce(most_TH, dist.ReduceOp.MAX, group=group)
    most_TH = most_TH.masked_fill(most_TH == -math.inf, 0.0)
    weight_TH1 = torch.exp(lse_TH - most_TH)[..., None]
    summed = torch.cat([out_THD * weight_TH1, weight_TH1], dim=-1)
    dist.all_reduce(summed, group=group)
    total_TH1 = summed[..., -1:]
    return summed[..., :-1] / total_TH1.clamp_min(torch.finfo(total_TH1.dtype).tiny), most_TH + total_TH1[..., 0].log()


class ReadOverRanks(torch.autograd.Function):
    """What queries see of the keys of all ranks; `parts` are this rank's, `group` the ranks."""

    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, parts: Parts, groups: tuple[Group, ...], group: Any) -> Tensor:
        out_THD, lse_TH = merge_over_ranks(*attend(q_THD, parts, groups), group)
        ctx.save_for_backward(q_THD, out_THD, lse_TH)
        ctx.parts, ctx.groups, ctx.group = parts, groups, group
        return out_THD.to(q_THD.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, None, None, None]:
        q_THD, out_THD, lse_TH = ctx.saved_tensors
        grad_THD = grad_THD.to(out_THD.dtype, copy=True).contiguous()
        dist.all_reduce(grad_THD, group=ctx.group)
        dq_THD = attend_backward(grad_THD, q_THD, out_THD, lse_TH, ctx.parts, ctx.groups)
        return dq_THD.to(q_THD.dtype), None, None, None
