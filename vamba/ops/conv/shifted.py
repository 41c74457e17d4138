"""The causal depthwise convolution in plain torch: W shifted multiply-adds over the whole row, channels last.

No transposition is needed between the projection before it and the scan after it, and a change of sequence is one mask
per shift. Same signature and meaning as `reference.conv`.

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
    """(SiLU of the convolution_BLC, final state_BCW: the last W raw inputs of the row's last sequence)."""
    batch, length, channels = x_BLC.shape
    width = weight_CW.shape[1]
    weight = weight_CW.to(torch.promote_types(x_BLC.dtype, torch.float32))  # the sums are as wide as the weight
    if initial_state_BCW is None:
        before = x_BLC.new_zeros(batch, width, channels)
    else:
        before = initial_state_BCW.transpose(1, 2).to(x_BLC.dtype)
    window = torch.cat([before, x_BLC], dim=1)
    y = window[:, width:] * weight[:, -1]
    if bias_C is not None:
        y = y + bias_C
    seq = None if seq_idx_BL is None else torch.cat([seq_idx_BL[:, :1].expand(-1, width), seq_idx_BL], dim=1)
    for back in range(1, width):
        tap = window[:, width - back : width - back + length]
        if seq is not None:
            tap = tap * (seq[:, width:] == seq[:, width - back : width - back + length])[..., None]
        y = torch.addcmul(y, tap, weight[:, -1 - back])
    final = window[:, -width:]
    if seq is not None:
        final = final * (seq[:, -width:] == seq[:, -1:])[..., None]
    return F.silu(y).to(x_BLC.dtype), final.transpose(1, 2)
