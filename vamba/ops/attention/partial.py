"""Cross-attention over keys and values that come in parts, of which no more than one has to be at hand.

    forward    each part: (out, lse) of its keys alone ── merge ──> (out, lse) of all keys
    backward   each part: P from the lse of all keys ──> dq summed over the parts; (dk, dv) handed back in the place of (k, v)

`lse` is the logarithm of the sum of the exponentials of a query's scores; two results over different keys become one by
weighing them with it (online softmax). The same merge joins ranks that hold different parts. Query heads of a key/value
group are folded into rows, so that each key is read once. Packed samples: a group's queries see the group's keys only,
wherever the parts were cut.

On a GPU in half precision, torch's flash kernel does a part, forward and backward; elsewhere it is matrix products in
float32 or wider, a block of rows at a time.

Shapes: T queries, M keys of a part, H query heads, K key/value heads, R = H/K, D values per head, N = R x queries rows.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from vamba.ops.attention.layout import CrossLayout

_SCORES_PER_BLOCK = 1 << 22
"""Scores that are held at once where no kernel avoids them."""


class Part(NamedTuple):
    """Keys and values of the packed video tokens from `start` on."""

    start: int
    k_MKD: Tensor
    v_MKD: Tensor


class Parts(Protocol):
    """Where parts come from, and where their gradients go."""

    def __iter__(self) -> Iterator[Part]:
        """The parts; in the same order each time."""

    def replace(self, index: int, dk_MKD: Tensor, dv_MKD: Tensor) -> None:
        """Take the gradients of the part that came as number `index`; it has been yielded and is needed no more."""


class Group(NamedTuple):
    """Queries of one sample, and the packed video tokens they see."""

    queries: slice
    first_key: int
    end_key: int


class Groups(NamedTuple):
    """A cross layout on the host, made once per batch: reading offsets from a GPU waits for it."""

    groups: tuple[Group, ...]
    query_tokens: Tensor | None
    """Their places in the text; None where every text token has a video."""

    @classmethod
    def of(cls, layout: CrossLayout) -> Groups:
        q, k = layout.queries.cu_seqlens.tolist(), layout.keys.cu_seqlens.tolist()
        return cls(tuple(Group(slice(q[i], q[i + 1]), k[i], k[i + 1]) for i in range(len(q) - 1)), layout.query_tokens)


class Reading:
    """What the text of one pass reads of one layer's keys and values: once forward, and once backward.

    The same queries may be given again, by a layer that is recomputed: they get what was found for them. The gradient
    of q comes the usual way, those of keys and values through `parts.replace`, in backward.
    """

    def __init__(self, parts: Parts, groups: Groups) -> None:
        self.parts, self.groups = parts, groups
        self.is_spent = False
        """The backward pass has run: the parts are gradients now."""
        self._found: tuple[Tensor, Tensor] | None = None

    def __call__(self, q_THD: Tensor) -> Tensor:
        """Every query of a sample over all of its keys; zero for queries of samples without a video; (T, H, D)."""
        tokens = self.groups.query_tokens
        q = q_THD if tokens is None else q_THD.index_select(0, tokens)
        # Keys and values want gradients also where the queries do not; autograd goes where something asks for one.
        out: Tensor = _Read.apply(q, q.new_zeros((), requires_grad=True), self)
        return out if tokens is None else q_THD.new_zeros(q_THD.shape).index_copy(0, tokens, out)

    def found(self, q_THD: Tensor) -> tuple[Tensor, Tensor]:
        """(out_THD, lse_TH) of the queries that have keys."""
        if self._found is None:
            self._found = attend(q_THD, self.parts, self.groups.groups)
        return self._found


def attend(q_THD: Tensor, parts: Iterable[Part], groups: Iterable[Group]) -> tuple[Tensor, Tensor]:
    """(out_THD, lse_TH) over the given parts alone, float32 or wider; zero and -inf for a query that sees none."""
    groups = tuple(groups)
    dtype = torch.promote_types(q_THD.dtype, torch.float32)
    out_THD = torch.zeros_like(q_THD, dtype=dtype)
    lse_TH = torch.full(q_THD.shape[:2], -math.inf, dtype=dtype, device=q_THD.device)
    for part in parts:
        for queries, k_MKD, v_MKD, _ in _seen(part, groups):
            heads = k_MKD.shape[1]
            out_KND, lse_KN = _forward(_folded(q_THD[queries], heads), k_MKD.transpose(0, 1), v_MKD.transpose(0, 1))
            out_LHD, lse_LH = _unfolded(out_KND, queries), _unfolded(lse_KN[..., None], queries)[..., 0]
            out_THD[queries], lse_TH[queries] = merge(out_THD[queries], lse_TH[queries], out_LHD, lse_LH)
    return out_THD, lse_TH


def merge(out_THD: Tensor, lse_TH: Tensor, other_THD: Tensor, other_TH: Tensor) -> tuple[Tensor, Tensor]:
    """(out, lse) over the keys of both; either may have seen none (lse -inf)."""
    total_TH = torch.logaddexp(lse_TH, other_TH)
    base_TH = total_TH.masked_fill(total_TH == -math.inf, 0.0)  # of no keys at all: both weights are then exp(-inf)
    first, second = (torch.exp(lse - base_TH)[..., None] for lse in (lse_TH, other_TH))
    return out_THD * first + other_THD * second, total_TH


def attend_backward(
    grad_THD: Tensor, q_THD: Tensor, out_THD: Tensor, lse_TH: Tensor, parts: Parts, groups: Iterable[Group]
) -> Tensor:
    """The gradient of q from the given parts, float32 or wider; those of keys and values go to `parts.replace`.

    `out` and `lse` are those over all keys, whoever holds them: P of a part follows from the total alone.
    """
    groups = tuple(groups)
    dq_THD = torch.zeros_like(out_THD)
    for index, part in enumerate(parts):
        dk_MKD, dv_MKD = torch.zeros_like(part.k_MKD), torch.zeros_like(part.v_MKD)
        for queries, k_MKD, v_MKD, keys in _seen(part, groups):
            heads = k_MKD.shape[1]
            grad, q, out, lse = (_folded(t[queries], heads) for t in (grad_THD, q_THD, out_THD, lse_TH[..., None]))
            dq, dk, dv = _backward(grad, q, out, lse, k_MKD.transpose(0, 1), v_MKD.transpose(0, 1))
            dq_THD[queries] += _unfolded(dq, queries)
            dk_MKD[keys], dv_MKD[keys] = dk.transpose(0, 1), dv.transpose(0, 1)
        parts.replace(index, dk_MKD, dv_MKD)
    return dq_THD


class _Read(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_THD: Tensor, asking: Tensor, reading: Reading) -> Tensor:
        out_THD, lse_TH = reading.found(q_THD)
        ctx.save_for_backward(q_THD, out_THD, lse_TH)
        ctx.reading = reading
        return out_THD.to(q_THD.dtype, copy=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor, None, None]:
        q_THD, out_THD, lse_TH = ctx.saved_tensors
        reading: Reading = ctx.reading
        assert not reading.is_spent, "keys and values are gone after one backward pass"
        reading.is_spent = True
        dq_THD = attend_backward(grad_THD, q_THD, out_THD, lse_TH, reading.parts, reading.groups.groups)
        return dq_THD.to(q_THD.dtype), None, None


def _seen(part: Part, groups: tuple[Group, ...]) -> Iterator[tuple[slice, Tensor, Tensor, slice]]:
    """(queries, keys, values, where those are in the part) of every group that has keys in the part."""
    for group in groups:
        first = max(group.first_key - part.start, 0)
        end = min(group.end_key - part.start, len(part.k_MKD))
        if first < end:
            keys = slice(first, end)
            yield group.queries, part.k_MKD[keys], part.v_MKD[keys], keys


def _folded(x_LHD: Tensor, heads: int) -> Tensor:
    """(queries, H, D) -> (K, N, D)"""
    return x_LHD.unflatten(1, (heads, -1)).permute(1, 2, 0, 3).flatten(1, 2)


def _unfolded(x_KND: Tensor, queries: slice) -> Tensor:
    """(K, N, D) -> (queries, H, D)"""
    return x_KND.unflatten(1, (-1, queries.stop - queries.start)).permute(2, 0, 1, 3).flatten(1, 2)


def _has_kernel(q_KND: Tensor) -> bool:
    return q_KND.is_cuda and q_KND.dtype in (torch.float16, torch.bfloat16) and q_KND.shape[-1] % 8 == 0


def _forward(q_KND: Tensor, k_KMD: Tensor, v_KMD: Tensor) -> tuple[Tensor, Tensor]:
    """(out_KND, lse_KN), float32 or wider."""
    if _has_kernel(q_KND):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(q_KND[None], k_KMD[None], v_KMD[None])
        return out[0].float(), lse[0]
    q_KND, k_KMD, v_KMD = _wide(q_KND, k_KMD, v_KMD)
    outs, lses = [], []
    for q in q_KND.split(_rows_per_block(k_KMD), dim=1):
        scores = (q @ k_KMD.transpose(1, 2)).mul_(q.shape[-1] ** -0.5)
        lse_KN = torch.logsumexp(scores, dim=-1)
        outs.append(scores.sub_(lse_KN[..., None]).exp_() @ v_KMD)
        lses.append(lse_KN)
    return torch.cat(outs, dim=1), torch.cat(lses, dim=1)


def _backward(
    grad_KND: Tensor, q_KND: Tensor, out_KND: Tensor, lse_KN1: Tensor, k_KMD: Tensor, v_KMD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(dq, dk, dv) of one part, given the totals."""
    if _has_kernel(q_KND):
        return _kernel_backward(grad_KND, q_KND, out_KND, lse_KN1, k_KMD, v_KMD)
    grad_KND, q_KND, k_KMD, v_KMD = _wide(grad_KND, q_KND, k_KMD, v_KMD)
    scale = q_KND.shape[-1] ** -0.5
    dk_KMD, dv_KMD = torch.zeros_like(k_KMD), torch.zeros_like(v_KMD)
    size = _rows_per_block(k_KMD)
    dqs = []
    blocks = zip(*(t.split(size, dim=1) for t in (grad_KND, q_KND, out_KND, lse_KN1)), strict=True)
    for grad, q, out, lse in blocks:
        p = (q @ k_KMD.transpose(1, 2)).mul_(scale).sub_(lse).exp_()
        dv_KMD += p.transpose(1, 2) @ grad
        shared = (grad * out).sum(-1, keepdim=True)
        ds = (grad @ v_KMD.transpose(1, 2)).sub_(shared).mul_(p).mul_(scale)
        dqs.append(ds @ k_KMD)
        dk_KMD += ds.transpose(1, 2) @ q
    return torch.cat(dqs, dim=1), dk_KMD, dv_KMD


def _kernel_backward(
    grad_KND: Tensor, q_KND: Tensor, out_KND: Tensor, lse_KN1: Tensor, k_KMD: Tensor, v_KMD: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    rows, keys = q_KND.shape[1], k_KMD.shape[1]
    grad, q, k, v, out = (t[None].to(q_KND.dtype) for t in (grad_KND, q_KND, k_KMD, v_KMD, out_KND))
    # The state of a dropout that there is none of, in the form that this version of torch has for it.
    _, _, cu_q, cu_k, _, _, seed, offset, _ = torch.ops.aten._scaled_dot_product_flash_attention(
        q[:, :, :1], k[:, :, :1], v[:, :, :1]
    )
    dq, dk, dv = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, lse_KN1[None, ..., 0].contiguous(), cu_q, cu_k, rows, keys, 0.0, False, seed, offset
    )
    return dq[0].float(), dk[0], dv[0]


def _rows_per_block(k_KMD: Tensor) -> int:
    return max(1, _SCORES_PER_BLOCK // (k_KMD.shape[0] * k_KMD.shape[1]))


def _wide(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.to(torch.promote_types(t.dtype, torch.float32)) for t in tensors)
