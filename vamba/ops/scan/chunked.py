"""The Mamba-2 scan in plain torch, as matrix products inside chunks and a short recurrence between them.

State-space duality (Mamba-2, arXiv 2405.21060, section 6). With cs the running sum of dt*A inside a chunk:
    inside   y_i += sum_{j<=i} exp(cs_i - cs_j) (C_i . B_j) dt_j x_j        one (Q, Q) product per chunk and head
    to state s    = sum_j exp(cs_end - cs_j) dt_j x_j B_j^T                 what a chunk adds
    between  h'   = exp(cs_end) h + s                                       the only sequential part
    from h   y_i += exp(cs_i) C_i . h                                       what the chunks before contribute
Terms that would cross a change of `seq_idx` are masked. Work and memory are linear in the length; sequences longer than
`_SEGMENT_TOKENS` are run in segments that keep only their boundary state and are recomputed in the backward pass.

`chunk_size` is where a stream may be cut without changing a bit of the result. Inside, smaller blocks are used where it
has them: a token's work grows with Q for the first product, and only 1/Q of it is the recurrence.

Shapes: B batch, L length, H heads, P values per head, G groups, R = H/G, N state size, n chunks of Q tokens.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_SEGMENT_TOKENS = 8192
_LARGEST_BLOCK = 64
"""Fastest of 16 to 256 on a CPU, forward and backward, for 64 x 128 states and for 16 x 16 ones."""


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
    state = initial_state_BHPN
    if state is None:
        state = x_BLHP.new_zeros(batch, heads, values, b_BLGN.shape[-1], dtype=dtype)
    state = state.to(dtype)
    block = _block(chunk_size)
    size = max(_SEGMENT_TOKENS // chunk_size, 1) * chunk_size
    if length <= size:
        return _segment(x_BLHP, dt_BLH, a_H, b_BLGN, c_BLGN, d_H, seq_idx_BL, None, state, block)
    outputs = []
    before: Tensor | None = None
    # split, not slices: the backward pass of a slice fills a tensor of the whole length, and there is one per segment.
    parts = zip(*(t.split(size, dim=1) for t in (x_BLHP, dt_BLH, b_BLGN, c_BLGN)), strict=True)
    for index, (x, dt, b, c) in enumerate(parts):
        seq_idx = None if seq_idx_BL is None else seq_idx_BL[:, index * size : (index + 1) * size]
        arguments = (x, dt, a_H, b, c, d_H, seq_idx, before, state, block)
        if torch.is_grad_enabled():
            y, state = checkpoint(_segment, *arguments, use_reentrant=False, preserve_rng_state=False)
        else:
            y, state = _segment(*arguments)
        before = None if seq_idx is None else seq_idx[:, -1]
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


def _segment(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    seq_idx_BL: Tensor | None,
    seq_before_B: Tensor | None,
    state_BHPN: Tensor,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """One run of chunks; `seq_before_B` is the sequence the incoming state belongs to, by default the first one's."""
    dtype = state_BHPN.dtype
    length, groups = x_BLHP.shape[1], b_BLGN.shape[2]
    heads_per_group = x_BLHP.shape[2] // groups
    x = _chunks(x_BLHP.to(dtype), chunk).unflatten(2, (groups, heads_per_group))  # B n G R Q P
    dt = _chunks(dt_BLH.to(dtype)[..., None], chunk).squeeze(-1).unflatten(2, (groups, heads_per_group))  # B n G R Q
    b, c = _chunks(b_BLGN.to(dtype), chunk), _chunks(c_BLGN.to(dtype), chunk)  # B n G Q N

    cs = torch.cumsum(dt * a_H.to(dtype).view(groups, heads_per_group, 1), dim=-1)
    pairs = torch.ones(chunk, chunk, dtype=torch.bool, device=x.device).tril()
    to_end = torch.exp(cs[..., -1:] - cs)
    from_start = torch.exp(cs)
    keep = from_start[..., -1]
    if seq_idx_BL is not None:
        seq = F.pad(seq_idx_BL, (0, -length % chunk), mode="constant", value=-1)
        seq[:, length:] = seq_idx_BL[:, -1:]
        seq = seq.unflatten(1, (-1, chunk))
        last = seq[..., -1]
        first = seq[:, 0, 0] if seq_before_B is None else seq_before_B
        before = torch.cat([first[:, None], last[:, :-1]], dim=1)
        pairs = (pairs & (seq[..., :, None] == seq[..., None, :]))[:, :, None, None]
        to_end = to_end * (seq == last[..., None])[:, :, None, None]
        from_start = from_start * (seq == before[..., None])[:, :, None, None]
        keep = keep * (last == before)[:, :, None, None]

    xdt = x * dt[..., None]
    decay = _Decay.apply(cs, pairs)  # B n G R Q Q
    y = ((c @ b.transpose(-1, -2))[:, :, :, None] * decay) @ xdt
    added = (xdt * to_end[..., None]).transpose(-1, -2).flatten(3, 4) @ b  # B n G (R P) N
    added = added.unflatten(3, (heads_per_group, -1)).flatten(2, 3)
    entering, final = _pass_states(added, keep.flatten(2, 3), state_BHPN)
    carried = c @ entering.unflatten(2, (groups, heads_per_group)).flatten(3, 4).transpose(-1, -2)  # B n G Q (R P)
    carried = carried.unflatten(-1, (heads_per_group, -1)).transpose(3, 4)
    y = y + carried * from_start[..., None] + x * d_H.to(dtype).view(groups, heads_per_group, 1, 1)
    y_BLHP = y.flatten(2, 3).transpose(2, 3).flatten(1, 2)[:, :length]
    return y_BLHP.to(x_BLHP.dtype), final


def _block(chunk_size: int) -> int:
    """The largest block of at most `_LARGEST_BLOCK` that divides a chunk; a chunk without one stays whole."""
    blocks = (chunk_size // parts for parts in range(1, chunk_size + 1) if chunk_size % parts == 0)
    return next((block for block in blocks if 8 <= block <= _LARGEST_BLOCK), chunk_size)


def _chunks(t_BLHP: Tensor, chunk: int) -> Tensor:
    """(B, L, H, P) -> (B, n, H, Q, P), filled up with zeros: a token with dt = 0 changes nothing."""
    padded = F.pad(t_BLHP, (0, 0, 0, 0, 0, -t_BLHP.shape[1] % chunk))
    return padded.unflatten(1, (-1, chunk)).transpose(2, 3)


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
    """

    @staticmethod
    def forward(ctx: Any, added: Tensor, keep: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        entering = torch.empty_like(added)
        keep_ = keep[..., None, None]
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
        keep_ = keep[..., None, None]
        for chunk in reversed(range(entering.shape[1])):
            grad_added[:, chunk] = grad_state
            grad_state = torch.addcmul(grad_entering[:, chunk], grad_state, keep_[:, chunk])
        return grad_added, (grad_added * entering).sum((-1, -2)), grad_state


def _pass_states(added_BnHPN: Tensor, keep_BnH: Tensor, state_BHPN: Tensor) -> tuple[Tensor, Tensor]:
    return _StatePassing.apply(added_BnHPN, keep_BnH, state_BHPN)
