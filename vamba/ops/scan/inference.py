"""The chunked scan where no gradient is wanted, on a CPU: half of chunked.py's work, in place.

The same decomposition (chunked.py has the equations), with the decay inside a block as a product of two factors,
    exp(cs_i - cs_j) = exp(cs_i) exp(-cs_j),
one of which belongs to the row and one to the column. Then a block needs no (Q, Q) array per head: with
u_j = exp(-cs_j) dt_j x_j, all heads of a group share their matrix products,
    y_i = exp(cs_i) (sum_{j<=i} (C_i . B_j) u_j + C_i . h)      h' = exp(cs_end) (h + sum_j B_j u_j^T).
exp(-cs_j) overflows where a head forgets more than `_MOST_DECAY` within a block. Such a block of a head is *steep*: its
u is set to zero, and its own two sums are computed from differences, as chunked.py does it. Whether it is steep depends
on the block alone, so that cuts at multiples of the chunk still change no bit. Looking for steep blocks would make a
GPU's host wait, so there chunked.py is used.

Shapes as in chunked.py: B batch, L length, H heads, P values, G groups, R = H/G, N state size, n blocks of Q tokens;
K steep blocks of heads.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vamba.ops.scan.blocks import SequenceMasks, in_blocks, sequence_masks

_RUN_BYTES = 2 << 20
"""Of x in one run: fastest of 0.5 to 16 MiB, for states from 16 x 16 to 64 x 128."""
_MOST_DECAY = 64.0
"""exp(64) leaves room for u and its sums in float32, which ends at exp(88)."""


def scan(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    seq_idx_BL: Tensor | None,
    state_BGNI: Tensor,
    *,
    block: int,
) -> tuple[Tensor, Tensor]:
    """(y_BLHP in x's dtype, final state_BGNI). The state's dtype is that of the computation."""
    batch, length, heads, values = x_BLHP.shape
    y_BLHP = torch.empty_like(x_BLHP, memory_format=torch.contiguous_format)
    run_tokens = max(_RUN_BYTES // (batch * heads * values * state_BGNI.dtype.itemsize) // block, 1) * block
    before = None
    for start in range(0, length, run_tokens):
        part = slice(start, start + run_tokens)
        masks = None
        if seq_idx_BL is not None:
            masks = sequence_masks(seq_idx_BL[:, part], before, block)
            before = seq_idx_BL[:, part][:, -1]
        inputs = (x_BLHP[:, part], dt_BLH[:, part], a_H, b_BLGN[:, part], c_BLGN[:, part], d_H)
        state_BGNI = _run(*inputs, masks, state_BGNI, block, out_BLHP=y_BLHP[:, part])
    return y_BLHP, state_BGNI


def _run(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    masks: SequenceMasks | None,
    state_BGNI: Tensor,
    block: int,
    *,
    out_BLHP: Tensor,
) -> Tensor:
    """All blocks of a run side by side, but for the recurrence between them. Returns the state after them."""
    dtype = state_BGNI.dtype
    heads = (b_BLGN.shape[2], x_BLHP.shape[2] // b_BLGN.shape[2])
    x = in_blocks(x_BLHP.to(dtype), block).unflatten(3, heads)  # B n Q G R P
    dt = in_blocks(dt_BLH.to(dtype), block).unflatten(3, heads)  # B n Q G R
    b, c = (in_blocks(t.to(dtype), block).transpose(2, 3) for t in (b_BLGN, c_BLGN))  # B n G Q N
    scores = (c @ b.transpose(-1, -2)).tril_()  # B n G Q Q
    if masks is not None:
        scores *= masks.pairs_BnQQ[:, :, None]
        b = b * masks.ends_BnQ[:, :, None, :, None]
        c = c * masks.starts_BnQ[:, :, None, :, None]

    cs = torch.cumsum(dt * a_H.to(dtype).view(heads), dim=2)
    is_steep = cs[:, :, -1] < -_MOST_DECAY  # B n G R
    growth = torch.exp(-cs).masked_fill_(is_steep[:, :, None], 0.0)
    u = (x * growth.mul_(dt)[..., None]).transpose(2, 3).flatten(4, 5)  # B n G Q (R P)
    added = b.transpose(-1, -2) @ u  # B n G N (R P)
    steep = _steep_blocks(is_steep, x, dt, cs, b, scores, added) if bool(is_steep.any()) else None
    entering, final = _pass_states(added, cs[:, :, -1], None if masks is None else masks.stays_Bn, state_BGNI)

    y = scores @ u
    y.flatten(0, 2).baddbmm_(c.flatten(0, 2), entering.flatten(0, 2))
    y = y.unflatten(-1, (heads[1], -1)).transpose(2, 3)  # B n Q G R P
    y.mul_(cs.exp_()[..., None])
    if steep is not None:
        places, inside_KQP = steep
        by_head = y.permute(0, 1, 3, 4, 2, 5)  # B n G R Q P
        by_head[places] = by_head[places] + inside_KQP
    y_BLHP = y.flatten(3, 4).flatten(1, 2)[:, : x_BLHP.shape[1]]
    torch.addcmul(y_BLHP, x_BLHP, d_H.to(dtype)[:, None], out=out_BLHP)
    return final


def _steep_blocks(
    is_steep: Tensor, x: Tensor, dt: Tensor, cs: Tensor, b: Tensor, scores: Tensor, added: Tensor
) -> tuple[tuple[Tensor, ...], Tensor]:
    """Where the steep blocks are and what their tokens get from each other; what they add to the state is filled in."""
    places = is_steep.nonzero(as_tuple=True)
    groups = places[:3]
    cs_KQ, dt_KQ = (t.permute(0, 1, 3, 4, 2)[places] for t in (cs, dt))
    xdt_KQP = x.permute(0, 1, 3, 4, 2, 5)[places] * dt_KQ[..., None]
    difference_KQQ = cs_KQ[:, :, None] - cs_KQ[:, None, :]
    # Above the diagonal the difference is positive, perhaps beyond what exp can take; the scores are zero there.
    inside_KQP = (scores[groups] * difference_KQQ.clamp_(max=0).exp_()) @ xdt_KQP
    to_end_KQ = torch.exp(cs_KQ[:, -1:] - cs_KQ)
    added_KNP = b[groups].transpose(-1, -2) @ (xdt_KQP * to_end_KQ[..., None])
    # `_pass_states` multiplies by the decay of the block, which it takes for exp(-_MOST_DECAY) here.
    by_head = added.unflatten(-1, (is_steep.shape[-1], -1)).transpose(3, 4)  # B n G R N P
    by_head[places] = added_KNP * math.exp(_MOST_DECAY)
    return places, inside_KQP


def _pass_states(added: Tensor, end_BnGR: Tensor, stays_Bn: Tensor | None, state: Tensor) -> tuple[Tensor, Tensor]:
    """The state entering each block, written over `added`, and the last one.

    What a steep block leaves of the state it got is some 1e-28 of it, not less.
    """
    keep = end_BnGR.clamp(min=-_MOST_DECAY).exp_()
    keep = keep.repeat_interleave(added.shape[-1] // keep.shape[-1], dim=-1)[..., None, :]  # B n G 1 (R P)
    for index in range(added.shape[1]):
        carried = state if stays_Bn is None else state * stays_Bn[:, index, None, None, None]
        following = (carried + added[:, index]).mul_(keep[:, index])
        added[:, index] = state
        state = following
    return added, state
