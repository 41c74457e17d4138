"""Attention of new tokens over a padded cache: the one place where rows are padded and a mask says what is real.

The query heads of a key/value group are folded into rows, so that keys and values are never repeated; at one new token
per row, the usual case, the mask stays as it is.

Shapes: B rows, T new tokens, S cached and new tokens, H query heads, K key/value heads, D values per head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def attend_cached(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_B1TS: Tensor) -> Tensor:
    """Attention wherever the mask (bool, or float to add) allows; its first dimension may be 1; (B, H, T, D)."""
    repeats = q_BHTD.shape[1] // k_BKSD.shape[1]
    rows = q_BHTD.unflatten(1, (-1, repeats)).flatten(2, 3)
    mask = mask_B1TS[:, :, None].expand(-1, -1, repeats, -1, -1).flatten(2, 3)
    out = F.scaled_dot_product_attention(rows, k_BKSD, v_BKSD, attn_mask=mask)
    return out.unflatten(2, (repeats, -1)).flatten(1, 2)
