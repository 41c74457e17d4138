"""Attention over packed segments through flash_attn's variable-length kernels, which need neither padding nor masks.

    self    q, k, v ──cu_seqlens of the segments──> causal inside each
    cross   q ──[those of samples with a video]──> block-diagonal: group g's queries over group g's keys ──> [put back]

Grouped queries are native: keys and values are passed as they are. The offsets were computed once per batch, on the
host.

Shapes: T queries, M keys, H query heads, K key/value heads, D values per head.
"""

from __future__ import annotations

from flash_attn import flash_attn_varlen_func
from torch import Tensor, bfloat16, float16

from vamba.ops.attention.layout import CrossLayout, Segments


def self_attention(q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, layout: Segments) -> Tensor:
    """Causal attention inside each segment; (T, H, D)."""
    return _attend(q_THD, k_TKD, v_TKD, queries=layout, keys=layout, causal=True)


def cross_attention(q_THD: Tensor, k_MKD: Tensor, v_MKD: Tensor, layout: CrossLayout) -> Tensor:
    """Every query of a sample over all of its keys; zero for queries of samples without a video; (T, H, D)."""
    q = q_THD if layout.query_tokens is None else q_THD.index_select(0, layout.query_tokens)
    out = _attend(q, k_MKD, v_MKD, queries=layout.queries, keys=layout.keys, causal=False)
    if layout.query_tokens is None:
        return out
    return q_THD.new_zeros(q_THD.shape).index_copy(0, layout.query_tokens, out)


def _attend(q: Tensor, k: Tensor, v: Tensor, *, queries: Segments, keys: Segments, causal: bool) -> Tensor:
    _check(q)
    return flash_attn_varlen_func(
        q,
        k,
        v,
        cu_seqlens_q=queries.cu_seqlens,
        cu_seqlens_k=keys.cu_seqlens,
        max_seqlen_q=queries.max_len,
        max_seqlen_k=keys.max_len,
        causal=causal,
    )


def _check(q: Tensor) -> None:
    if not q.is_cuda or q.dtype not in (float16, bfloat16):
        raise ValueError(
            f"backends.attention 'flash_attn' got {q.dtype} on {q.device}: it takes float16 and bfloat16 on an NVIDIA "
            "GPU. Train in bfloat16, or choose backends.attention 'sdpa'."
        )
