"""The Mamba-2 recurrence, token by token, in float32: the definition that every other scan is tested against.

Mamba-2 (arXiv 2405.21060), section 3: per head, with state h of shape (P, N),
    h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t^T,    y_t = h_t C_t + D x_t
and h restarts from zero wherever `seq_idx` changes.

Shapes: B batch, L length, H heads, P values per head, G groups of heads that share B and C, N state size.
"""

from __future__ import annotations

import torch
from torch import Tensor


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

    An initial state continues the first sequence of the row. `chunk_size` is part of the signature and unused here.
    """
    del chunk_size
    dtype = torch.promote_types(x_BLHP.dtype, torch.float32)
    repeat = x_BLHP.shape[2] // b_BLGN.shape[2]
    x, dt, a, d = x_BLHP.to(dtype), dt_BLH.to(dtype), a_H.to(dtype), d_H.to(dtype)
    b, c = (t.to(dtype).repeat_interleave(repeat, dim=2) for t in (b_BLGN, c_BLGN))
    batch, length, heads, values = x.shape
    state = x.new_zeros(batch, heads, values, b.shape[-1])
    if initial_state_BHPN is not None:
        state = initial_state_BHPN.to(dtype)
    outputs = []
    for t in range(length):
        if seq_idx_BL is not None and t > 0:
            state = state * (seq_idx_BL[:, t] == seq_idx_BL[:, t - 1])[:, None, None, None]
        decay = torch.exp(dt[:, t] * a)[..., None, None]
        state = state * decay + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None]
        outputs.append((state * c[:, t, :, None]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(outputs, dim=1).to(x_BLHP.dtype), state
