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

from typing import NamedTuple, Self

import torch
from torch import Tensor

from vamba.ops.scan.blocks import SequenceMasks, in_blocks, sequence_masks

_RUN_BYTES = 2 << 20
"""Of x in one run: fastest of 0.5 to 16 MiB, for states from 16 x 16 to 64 x 128."""
_MOST_DECAY = 64.0
"""exp(64) leaves room for u and its sums in float32, which ends at exp(88)."""


class _Scratch(NamedTuple):
    """What every run overwrites: allocated once, since touching new memory costs as much as the arithmetic on it."""

    u: Tensor  # n G Q (R P)
    y: Tensor  # n G Q (R P)
    states: Tensor  # n+1 G N (R P); the state entering each block, and the last one

    @classmethod
    def like(cls, state_GNI: Tensor, blocks: int, block: int) -> Self:
        groups, state_size, inner = state_GNI.shape
        u, y = (state_GNI.new_empty(blocks, groups, block, inner) for _ in range(2))
        return cls(u, y, state_GNI.new_empty(blocks + 1, groups, state_size, inner))

    def of(self, blocks: int) -> Self:
        return type(self)(self.u[:blocks], self.y[:blocks], self.states[: blocks + 1])


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
    length, heads, values = x_BLHP.shape[1:]
    y_BLHP = torch.empty_like(x_BLHP, memory_format=torch.contiguous_format)
    final_BGNI = torch.empty_like(state_BGNI, memory_format=torch.contiguous_format)
    run_blocks = max(_RUN_BYTES // (heads * values * state_BGNI.dtype.itemsize * block), 1)
    run_blocks = min(run_blocks, max(-(-length // block), 1))
    scratch = _Scratch.like(state_BGNI[0], run_blocks, block)
    for row in range(x_BLHP.shape[0]):
        before, scratch.states[0] = None, state_BGNI[row]
        for start in range(0, length, run_blocks * block):
            part = (row, slice(start, start + run_blocks * block))
            masks = None
            if seq_idx_BL is not None:
                seq_idx_1L = seq_idx_BL[part][None]
                masks = sequence_masks(seq_idx_1L, before, block)
                before = seq_idx_1L[:, -1]
            inputs = (x_BLHP[part], dt_BLH[part], a_H, b_BLGN[part], c_BLGN[part], d_H)
            _run(*inputs, masks, scratch, block, out_LHP=y_BLHP[part])
        final_BGNI[row] = scratch.states[0]
    return y_BLHP, final_BGNI


def _run(
    x_LHP: Tensor,
    dt_LH: Tensor,
    a_H: Tensor,
    b_LGN: Tensor,
    c_LGN: Tensor,
    d_H: Tensor,
    masks: SequenceMasks | None,
    scratch: _Scratch,
    block: int,
    *,
    out_LHP: Tensor,
) -> None:
    """All blocks of a run side by side, but for the recurrence between them: from states[0], and back to there."""
    dtype = scratch.u.dtype
    length, heads, values = x_LHP.shape
    groups = (b_LGN.shape[1], heads // b_LGN.shape[1])
    x = _in_blocks(x_LHP.to(dtype), block).unflatten(2, groups)  # n Q G R P
    dt = _in_blocks(dt_LH.to(dtype), block).unflatten(2, groups)  # n Q G R
    # Contiguous for one block as for many, lest the products take different kernels, which round differently.
    b, c = (_in_blocks(t.to(dtype), block).transpose(1, 2).contiguous() for t in (b_LGN, c_LGN))  # n G Q N
    u, y, states = scratch.of(len(x))
    is_in_place = groups[0] == 1 and length % block == 0 and out_LHP.dtype == dtype
    if is_in_place:
        y = out_LHP.view(u.shape)
    scores = (c @ b.transpose(-1, -2)).tril_()  # n G Q Q
    if masks is not None:
        scores *= masks.pairs_BnQQ[0, :, None]
        b = b * masks.ends_BnQ[0, :, None, :, None]
        c = c * masks.starts_BnQ[0, :, None, :, None]

    cs = torch.cumsum(dt * a_H.to(dtype).view(groups), dim=1)
    is_steep = cs[:, -1] < -_MOST_DECAY  # n G R
    growth = torch.exp(-cs).masked_fill_(is_steep[:, None], 0.0)
    torch.mul(x, growth.mul_(dt)[..., None], out=u.unflatten(-1, (-1, values)).transpose(1, 2))
    torch.bmm(b.flatten(0, 1).transpose(-1, -2), u.flatten(0, 1), out=states[1:].flatten(0, 1))
    torch.bmm(scores.flatten(0, 1), u.flatten(0, 1), out=y.flatten(0, 1))
    steep = _steep_blocks(is_steep, x, dt, cs, b, scores) if bool(is_steep.any()) else None
    _pass_states(states, cs[:, -1], steep, None if masks is None else masks.stays_Bn[0])

    y.flatten(0, 1).baddbmm_(c.flatten(0, 1), states[:-1].flatten(0, 1))
    y_nQGRP, u_nQGRP = (t.unflatten(-1, (-1, values)).transpose(1, 2) for t in (y, u))
    y_nQGRP.mul_(cs.exp_()[..., None])
    if steep is not None:
        y.unflatten(-1, (-1, values)).transpose(2, 3)[steep.places] += steep.inside_KQP
    # Not addcmul: whether it rounds once or twice depends on where an element lies, so on how the row was cut.
    y += torch.mul(x, d_H.to(dtype).view(*groups, 1), out=u_nQGRP).transpose(1, 2).flatten(3)
    if not is_in_place:
        out_LHP.copy_(y_nQGRP.flatten(2, 3).flatten(0, 1)[:length])
    states[0] = states[-1]


def _in_blocks(t_LX: Tensor, block: int) -> Tensor:
    return in_blocks(t_LX[None], block)[0]


class _Steep(NamedTuple):
    """K blocks of heads that forget too much for the factored form."""

    places: tuple[Tensor, ...]  # of n, G and R
    inside_KQP: Tensor  # what their tokens get from each other
    added_KNP: Tensor  # what they add to the state


def _steep_blocks(is_steep: Tensor, x: Tensor, dt: Tensor, cs: Tensor, b: Tensor, scores: Tensor) -> _Steep:
    places = is_steep.nonzero(as_tuple=True)
    cs_KQ, dt_KQ = (t.permute(0, 2, 3, 1)[places] for t in (cs, dt))
    xdt_KQP = x.permute(0, 2, 3, 1, 4)[places] * dt_KQ[..., None]
    difference_KQQ = cs_KQ[:, :, None] - cs_KQ[:, None, :]
    # Above the diagonal the difference is positive, perhaps beyond what exp can take; the scores are zero there.
    inside_KQP = (scores[places[:2]] * difference_KQQ.clamp_(max=0).exp_()) @ xdt_KQP
    to_end_KQ = torch.exp(cs_KQ[:, -1:] - cs_KQ)
    return _Steep(places, inside_KQP, b[places[:2]].transpose(-1, -2) @ (xdt_KQP * to_end_KQ[..., None]))


def _pass_states(states: Tensor, end_nGR: Tensor, steep: _Steep | None, stays_n: Tensor | None) -> None:
    """states[0] entered; what block i adds, but for its decay, is in states[i + 1], and becomes the state after it."""
    keep_nGR = end_nGR.exp()
    values = states.shape[-1] // keep_nGR.shape[-1]
    keep = keep_nGR.repeat_interleave(values, dim=-1)[..., None, :]  # n G 1 (R P)
    states[1:] *= keep
    if steep is not None:
        states[1:].unflatten(-1, (-1, values)).transpose(2, 3)[steep.places] = steep.added_KNP
    if stays_n is not None:
        keep = keep * stays_n[:, None, None, None]
    for before, after, kept in zip(states[:-1], states[1:], keep, strict=True):
        after.addcmul_(before, kept)
