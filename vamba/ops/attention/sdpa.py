"""Attention over packed segments through torch's scaled_dot_product_attention.

Segments are scattered into a padded grid whose slots were computed once per batch. Padding stands behind the real
tokens, so causal self-attention needs no mask at all; cross-attention needs one only where the videos differ in length.
Keys and values are never repeated for grouped queries: self-attention uses `enable_gqa`, cross-attention folds the
query heads of a group into rows, so that each key is read once.

Shapes: T queries, M keys, S or G segments, L longest segment, H query heads, K key/value heads, D values per head.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from vamba.ops.attention.layout import CrossLayout, Segments, pad, unpad


def self_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Segments) -> Tensor:
    """Causal attention inside each segment; (T, H, D)."""
    q, k, v = (pad(t, layout).transpose(1, 2) for t in (q_THD, k_TKD, v_TKD))
    out_SHLD = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
    return unpad(out_SHLD.transpose(1, 2), layout)


def cross_attention(q_THD: Tensor, k_MKD: Tensor, v_MKD: Tensor, layout: CrossLayout) -> Tensor:
    """Every query of a sample over all of its keys; zero for queries of samples without a video; (T, H, D)."""
    q = q_THD if layout.query_tokens is None else q_THD.index_select(0, layout.query_tokens)
    k, v = (pad(t, layout.keys).transpose(1, 2) for t in (k_MKD, v_MKD))
    mask = None if layout.key_mask_GL is None else layout.key_mask_GL[:, None, None]
    out = unpad(attend_folded(pad(q, layout.queries), k, v, mask), layout.queries)
    if layout.query_tokens is None:
        return out
    return q_THD.new_zeros(q_THD.shape).index_copy(0, layout.query_tokens, out)


def attend_folded(q_GLHD: Tensor, k_GKMD: Tensor, v_GKMD: Tensor, mask_G11M: Tensor | None = None) -> Tensor:
    """Attention of all queries over all keys the mask allows, each key/value group's heads folded into rows."""
    groups, length, heads, _ = q_GLHD.shape
    kv_heads = k_GKMD.shape[1]
    rows = q_GLHD.unflatten(2, (kv_heads, heads // kv_heads)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    out = F.scaled_dot_product_attention(rows, k_GKMD, v_GKMD, attn_mask=mask_G11M)
    return out.unflatten(2, (heads // kv_heads, length)).permute(0, 3, 1, 2, 4).flatten(2, 3)
