"""The causal depthwise convolution, token by token, in float32: the definition that every other one is tested against.

    y_t = SiLU(bias + sum_{k<W} weight[:, k] * x_{t - (W-1) + k})
Inputs from before the row come from the initial state (zeros by default); inputs of another sequence count as zero.

Shapes: B batch, L length, C channels, W width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def conv(
    x_BLC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor | None,
    *,
    seq_idx_BL: Tensor | None = None,
    initial_state_BCW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(SiLU of the convolution_BLC, final state_BCW: the last W raw inputs of the row's last sequence).

    An initial state continues the first sequence of the row.
    """
    dtype = torch.promote_types(x_BLC.dtype, torch.float32)
    batch, length, channels = x_BLC.shape
    width = weight_CW.shape[1]
    x, weight = x_BLC.to(dtype), weight_CW.to(dtype)
    empty = x.new_zeros(batch, channels, width)
    window = empty if initial_state_BCW is None else initial_state_BCW.to(dtype)
    outputs = []
    for t in range(length):
        if seq_idx_BL is not None and t > 0:
            window = window * (seq_idx_BL[:, t] == seq_idx_BL[:, t - 1])[:, None, None]
        window = torch.cat([window[..., 1:], x[:, t, :, None]], dim=-1)
        outputs.append((window * weight).sum(-1) if bias_C is None else (window * weight).sum(-1) + bias_C.to(dtype))
    return F.silu(torch.stack(outputs, dim=1)).to(x_BLC.dtype), window.to(x_BLC.dtype)
