"""The Mamba-2 scan in plain torch, as matrix products inside chunks and a short recurrence between them.

State-space duality (Mamba-2, arXiv 2405.21060, section 6). With cs the running sum of dt*A inside a chunk:
    inside   y_i += sum_{j<=i} exp(cs_i - cs_j) (C_i . B_j) dt_j x_j        one (Q, Q) product per chunk and head
    to state s    = sum_j exp(cs_end - cs_j) B_j (dt_j x_j)^T               what a chunk adds
    between  h'   = exp(cs_end) h + s                                       the only sequential part
    from h   y_i += exp(cs_i) C_i . h                                       what the chunks before contribute
Terms that would cross a change of `seq_idx` are masked. Work and memory are linear in the length.

A row runs in pieces of three sizes. A *segment* bounds memory in training: of a longer row only the states between
segments are kept, and the rest is recomputed in the backward pass. A *run* is as many chunks as the processor's cache
holds, one set of matrix products each. A *block* is what is called a chunk above: a part of `chunk_size`, because a
token's work grows with Q for the first product. Wherever a stream is cut at a multiple of `chunk_size`, no bit of the
result changes.

Inside, tokens come before heads, as they do in the inputs, and a state is (N, R P): then the products with B and C are
one matrix product for all heads of a group, and nothing large is transposed.

Where no gradient is wanted, on a CPU, inference.py does the same with less work.

Shapes: B batch, L length, H heads, P values per head, G groups, R = H/G, N state size, n chunks of Q tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from vamba.ops.scan import inference
from vamba.ops.scan.blocks import block_of, in_blocks, sequence_masks

_SEGMENT_TOKENS = 8192
_RUN_BYTES = 1 << 20
"""Of x in one run: what a cache holds beside the states. Twice and four times as much are slower on a CPU."""


def scan(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    *,
    chunk_size: int,
    seq_idx_BL: Tensor | None = None,
    initial_state_BHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(y_BLHP in x's dtype, final state_BHPN in float32 or wider). `dt` is positive, `a` negative.

    An initial state continues the first sequence of the row.
    """
    dtype = torch.promote_types(x_BLHP.dtype, torch.float32)
    batch, length, heads, values = x_BLHP.shape
    groups, state_size = b_BLGN.shape[2:]
    if initial_state_BHPN is None:
        state_BGNI = x_BLHP.new_zeros(batch, groups, state_size, heads // groups * values, dtype=dtype)
    else:
        state_BGNI = initial_state_BHPN.to(dtype).unflatten(1, (groups, -1)).flatten(2, 3).transpose(2, 3)
    inputs = (x_BLHP, dt_BLH, a_H, b_BLGN, c_BLGN, d_H, seq_idx_BL, state_BGNI)
    is_recorded = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if x_BLHP.device.type == "cpu" and not is_recorded:
        y_BLHP, state_BGNI = inference.scan(*inputs, block=block_of(chunk_size))
    else:
        y_BLHP, state_BGNI = _segments(*inputs, chunk_size)
    return y_BLHP, state_BGNI.transpose(2, 3).unflatten(2, (heads // groups, values)).flatten(1, 2).contiguous()


def _segments(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    seq_idx_BL: Tensor | None,
    state_BGNI: Tensor,
    chunk_size: int,
) -> tuple[Tensor, Tensor]:
    """Segment after segment, each of them a checkpoint."""
    batch, length, heads, values = x_BLHP.shape
    segment = max(_SEGMENT_TOKENS // chunk_size, 1) * chunk_size
    run_bytes_per_token = batch * heads * values * state_BGNI.dtype.itemsize
    run_tokens = max(_RUN_BYTES // run_bytes_per_token // chunk_size, 1) * chunk_size
    sizes = (run_tokens, block_of(chunk_size))
    if length <= segment:
        return _segment(x_BLHP, dt_BLH, a_H, b_BLGN, c_BLGN, d_H, seq_idx_BL, None, state_BGNI, *sizes)
    outputs = []
    before: Tensor | None = None
    for x, dt, b, c, seq_idx in _split(segment, x_BLHP, dt_BLH, b_BLGN, c_BLGN, seq_idx_BL):
        arguments = (x, dt, a_H, b, c, d_H, seq_idx, before, state_BGNI, *sizes)
        if torch.is_grad_enabled():
            y, state_BGNI = checkpoint(_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state_BGNI = _segment(*arguments)
        before = None if seq_idx is None else seq_idx[:, -1]
        outputs.append(y)
    return torch.cat(outputs, dim=1), state_BGNI


def _segment(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    seq_idx_BL: Tensor | None,
    seq_before_B: Tensor | None,
    state_BGNI: Tensor,
    run_tokens: int,
    block: int,
) -> tuple[Tensor, Tensor]:
    """Run after run. `seq_before_B` is the sequence the incoming state belongs to, by default the first one's."""
    outputs = []
    for x, dt, b, c, seq_idx in _split(run_tokens, x_BLHP, dt_BLH, b_BLGN, c_BLGN, seq_idx_BL):
        y, state_BGNI = _run(x, dt, a_H, b, c, d_H, seq_idx, seq_before_B, state_BGNI, block)
        seq_before_B = None if seq_idx is None else seq_idx[:, -1]
        outputs.append(y)
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state_BGNI


def _split(size: int, *tensors: Tensor | None) -> list[tuple[Any, ...]]:
    """Consecutive parts of `size` tokens of every tensor.

    split, not slices: the backward pass of a slice fills a tensor of the whole length, and there is one per part.
    """
    first = tensors[0]
    assert first is not None
    count = -(-first.shape[1] // size)
    return list(zip(*([None] * count if t is None else t.split(size, dim=1) for t in tensors), strict=True))


def _run(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    seq_idx_BL: Tensor | None,
    seq_before_B: Tensor | None,
    state_BGNI: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """All chunks of a run side by side, but for the recurrence between them."""
    dtype = state_BGNI.dtype
    length, groups = x_BLHP.shape[1], b_BLGN.shape[2]
    heads = (groups, x_BLHP.shape[2] // groups)
    x = in_blocks(x_BLHP.to(dtype), chunk).unflatten(3, heads)  # B n Q G R P
    dt = in_blocks(dt_BLH.to(dtype), chunk).unflatten(3, heads)  # B n Q G R
    b, c = (in_blocks(t.to(dtype), chunk).transpose(2, 3) for t in (b_BLGN, c_BLGN))  # B n G Q N

    cs = torch.cumsum(dt * a_H.to(dtype).view(heads), dim=2)
    pairs = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    to_end = torch.exp(cs[:, :, -1:] - cs)
    from_start = torch.exp(cs)
    keep = from_start[:, :, -1]  # B n G R
    if seq_idx_BL is not None:
        masks = sequence_masks(seq_idx_BL, seq_before_B, chunk)
        pairs = (pairs & masks.pairs_BnQQ)[:, :, None, None]
        to_end = to_end * masks.ends_BnQ[..., None, None]
        from_start = from_start * masks.starts_BnQ[..., None, None]
        keep = keep * masks.stays_Bn[..., None, None]

    xdt = x * dt[..., None]
    decay = _Decay.apply(cs.permute(0, 1, 3, 4, 2).contiguous(), pairs)  # B n G R Q Q
    scores = (c @ b.transpose(-1, -2))[:, :, :, None] * decay
    y = (scores @ xdt.permute(0, 1, 3, 4, 2, 5)).transpose(3, 4)  # B n G Q R P
    added = b.transpose(-1, -2) @ (xdt * to_end[..., None]).transpose(2, 3).flatten(4, 5)  # B n G N (R P)
    entering, final = _StatePassing.apply(added, keep, state_BGNI)
    carried = (c @ entering).unflatten(-1, (heads[1], -1))  # B n G Q R P
    y = torch.addcmul(y, carried, from_start.transpose(2, 3)[..., None])
    y = torch.addcmul(y, x.transpose(2, 3), d_H.to(dtype).view(groups, 1, heads[1], 1))
    y_BLHP = y.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :length]
    return y_BLHP.to(x_BLHP.dtype), final


class _Decay(torch.autograd.Function):
    """exp(cs_i - cs_j) for the allowed pairs (i, j), zero for the others.

    The largest array of the scan: as one autograd node it is made once, in place, and nothing else of its size is kept.
    """

    @staticmethod
    def forward(ctx: Any, cs: Tensor, pairs: Tensor) -> Tensor:
        decay = cs[..., :, None] - cs[..., None, :]
        decay.masked_fill_(~pairs, -torch.inf).exp_()
        ctx.save_for_backward(decay)
        return decay

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (decay,) = ctx.saved_tensors
        weighted = grads[0] * decay
        return weighted.sum(-1) - weighted.sum(-2), None


class _StatePassing(torch.autograd.Function):
    """h' = keep * h + added over n chunks; returns the state entering each chunk and the last one.

    As one autograd node: the loop runs on small tensors, and recording each of its steps would cost more than doing it.
    Shapes: added and entering B n G N (R P), keep B n G R, state B G N (R P).
    """

    @staticmethod
    def forward(ctx: Any, added: Tensor, keep: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        entering = torch.empty_like(added)
        keep_ = _over_values(keep, added)
        for chunk in range(added.shape[1]):
            entering[:, chunk] = state
            state = torch.addcmul(added[:, chunk], state, keep_[:, chunk])
        ctx.save_for_backward(entering, keep)
        return entering, state

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grad_entering, grad_state = grads
        entering, keep = ctx.saved_tensors
        grad_added = torch.empty_like(entering)
        keep_ = _over_values(keep, entering)
        for chunk in reversed(range(entering.shape[1])):
            grad_added[:, chunk] = grad_state
            grad_state = torch.addcmul(grad_entering[:, chunk], grad_state, keep_[:, chunk])
        by_head = (grad_added * entering).unflatten(-1, (keep.shape[-1], -1))
        return grad_added, by_head.sum((-1, -3)), grad_state


def _over_values(keep_BnGR: Tensor, states: Tensor) -> Tensor:
    """One factor per head, for all of its values: (B, n, G, 1, R P)."""
    return keep_BnGR.repeat_interleave(states.shape[-1] // keep_BnGR.shape[-1], dim=-1)[..., None, :]
