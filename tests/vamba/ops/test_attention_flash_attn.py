"""What the flash_attn backend asks of flash_attn: a stand-in of the released signature computes the definition."""

from __future__ import annotations

import importlib
import sys
import types
from collections.abc import Iterator

import pytest
import torch

from tests.vamba.ops.attention_cases import compare, tensors
from vamba.ops.attention import reference
from vamba.ops.attention.layout import cross_layout, segments

MODULE = "vamba.ops.attention.flash_attn"


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    block_table=None,
):  # type: ignore[no-untyped-def]
    """The arguments of flash_attn 2.8; causal masks are aligned to the end of the keys, as there."""
    assert (dropout_p, softmax_scale, window_size, softcap, alibi_slopes) == (0.0, None, (-1, -1), 0.0, None)
    assert not return_attn_probs and block_table is None
    for offsets, longest in ((cu_seqlens_q, max_seqlen_q), (cu_seqlens_k, max_seqlen_k)):
        assert offsets.dtype == torch.int32 and offsets.is_contiguous() and isinstance(longest, int)
        assert longest == int(offsets.diff().max())
    assert all(t.stride(-1) == 1 for t in (q, k, v))
    assert len(cu_seqlens_q) == len(cu_seqlens_k)
    assert int(cu_seqlens_q[-1]) == len(q) and int(cu_seqlens_k[-1]) == len(k)
    repeat = q.shape[1] // k.shape[1]
    outputs = []
    for i in range(len(cu_seqlens_q) - 1):
        rows = q[cu_seqlens_q[i] : cu_seqlens_q[i + 1]]
        keys, values = (t[cu_seqlens_k[i] : cu_seqlens_k[i + 1]].repeat_interleave(repeat, 1) for t in (k, v))
        scores = torch.einsum("thd,mhd->htm", rows, keys) / q.shape[-1] ** 0.5
        if causal:
            shape = scores.shape[1:]
            allowed = torch.ones(shape, dtype=torch.bool).tril(shape[1] - shape[0])
            scores = scores.masked_fill(~allowed, -torch.inf)
        outputs.append(torch.einsum("htm,mhd->thd", scores.softmax(-1), values))
    return torch.cat(outputs)


@pytest.fixture
def backend(monkeypatch: pytest.MonkeyPatch) -> Iterator[types.ModuleType]:
    package = types.ModuleType("flash_attn")
    package.flash_attn_varlen_func = flash_attn_varlen_func  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    sys.modules.pop(MODULE, None)
    yield importlib.import_module(MODULE)
    del sys.modules[MODULE]


@pytest.fixture
def in_float64(backend: types.ModuleType, monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The stand-in computes on the CPU and in float64, which the package does not."""
    monkeypatch.setattr(backend, "_check", lambda q: None)
    return backend


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("lengths", [[13], [5, 5, 5], [1, 11, 4, 7]])
def test_self_attention(in_float64: types.ModuleType, lengths: list[int], heads: int, kv_heads: int) -> None:
    qkv = tensors(sum(lengths), sum(lengths), heads, kv_heads)
    compare(in_float64.self_attention, reference.self_attention, qkv, segments(lengths))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2)])
@pytest.mark.parametrize(
    ("texts", "videos"),
    [([5], [9]), ([4, 4], [6, 6]), ([3, 8, 2], [5, 1, 12]), ([3, 8, 2], [5, 0, 12]), ([3, 8], [0, 4])],
)
def test_cross_attention(
    in_float64: types.ModuleType, texts: list[int], videos: list[int], heads: int, kv_heads: int
) -> None:
    qkv = tensors(sum(texts), sum(videos), heads, kv_heads)
    compare(in_float64.cross_attention, reference.cross_attention, qkv, cross_layout(texts, videos))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_the_package_can_not_take_is_refused(backend: types.ModuleType, dtype: torch.dtype) -> None:
    qkv = [t.to(dtype) for t in tensors(5, 5, 4, 2)]
    with pytest.raises(ValueError, match=f"got {dtype} on cpu.*choose backends.attention 'sdpa'"):
        backend.self_attention(*qkv, layout=segments([5]))
