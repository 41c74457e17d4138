"""Attention over packed segments, one segment and one head at a time, in float32: the definition.

Shapes: T queries (text tokens), M keys (video tokens), H query heads, K key/value heads, D values per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vamba.ops.attention.layout import CrossLayout, Segments


def self_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Segments) -> Tensor:
    """Causal attention inside each segment; (T, H, D)."""
    out = torch.zeros_like(q_THD)
    ends = layout.cu_seqlens.tolist()
    for start, end in zip(ends, ends[1:], strict=False):
        causal = torch.ones(end - start, end - start, dtype=torch.bool, device=q_THD.device).tril()
        out[start:end] = _attend(q_THD[start:end], k_TKD[start:end], v_TKD[start:end], causal)
    return out


def cross_attention(q_THD: Tensor, k_MKD: Tensor, v_MKD: Tensor, layout: CrossLayout) -> Tensor:
    """Every query of a sample over all of its keys; zero for queries of samples without a video; (T, H, D)."""
    out = torch.zeros_like(q_THD)
    places = torch.arange(len(q_THD), device=q_THD.device) if layout.query_tokens is None else layout.query_tokens
    query_ends, key_ends = layout.queries.cu_seqlens.tolist(), layout.keys.cu_seqlens.tolist()
    for group in range(layout.queries.num_segments):
        rows = places[query_ends[group] : query_ends[group + 1]]
        keys = slice(key_ends[group], key_ends[group + 1])
        out[rows] = _attend(q_THD[rows], k_MKD[keys], v_MKD[keys], None)
    return out


def _attend(q_THD: Tensor, k_MKD: Tensor, v_MKD: Tensor, allowed_TM: Tensor | None) -> Tensor:
    dtype = torch.promote_types(q_THD.dtype, torch.float32)
    repeat = q_THD.shape[1] // k_MKD.shape[1]
    heads = []
    for head in range(q_THD.shape[1]):
        q, k, v = (t.to(dtype) for t in (q_THD[:, head], k_MKD[:, head // repeat], v_MKD[:, head // repeat]))
        scores = q @ k.T / q.shape[-1] ** 0.5
        if allowed_TM is not None:
            scores = scores.masked_fill(~allowed_TM, -torch.inf)
        heads.append(scores.softmax(-1) @ v)
    return torch.stack(heads, dim=1).to(q_THD.dtype)
