"""What every attention backend is put to: random queries, keys and values, and outputs and gradients side by side."""

from __future__ import annotations

import torch
from torch import Tensor

from vamba.ops.attention.layout import CrossLayout, Segments


def tensors(queries: int, keys: int, heads: int, kv_heads: int) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((queries, heads, 8), (keys, kv_heads, 8), (keys, kv_heads, 8))
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def compare(first, second, qkv: list[Tensor], layout: Segments | CrossLayout | None) -> None:  # type: ignore[no-untyped-def]
    results = []
    for attend in (first, second):
        out = attend(*qkv, layout=layout)
        weights = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad((out * weights).sum(), qkv)])
    for actual, wanted in zip(*results, strict=True):
        torch.testing.assert_close(actual, wanted, rtol=1e-9, atol=1e-9)
