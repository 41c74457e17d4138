"""Cross-attention in parts against its definition: outputs, gradients, and results over different keys made one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from tests.vamba.ops.attention_cases import compare, tensors
from vamba.ops.attention import partial, reference
from vamba.ops.attention.layout import CrossLayout, cross_layout
from vamba.ops.attention.partial import Groups, Part, Reading


class Cut:
    """Keys and values in parts that begin at the given tokens; gradients take their place."""

    def __init__(self, k_MKD: Tensor, v_MKD: Tensor, starts: list[int]) -> None:
        ends = [*starts[1:], len(k_MKD)]
        self.parts = [Part(a, k_MKD[a:b].detach(), v_MKD[a:b].detach()) for a, b in zip(starts, ends, strict=True)]

    def __iter__(self) -> Iterator[Part]:
        return iter(tuple(self.parts))

    def replace(self, index: int, dk_MKD: Tensor, dv_MKD: Tensor) -> None:
        self.parts[index] = Part(self.parts[index].start, dk_MKD, dv_MKD)

    def joined(self) -> tuple[Tensor, Tensor]:
        return torch.cat([p.k_MKD for p in self.parts]), torch.cat([p.v_MKD for p in self.parts])


class _FromParts(torch.autograd.Function):
    """Keys and values whole on the outside, so that the usual comparison of gradients serves."""

    @staticmethod
    def forward(ctx, q, k, v, starts, layout):  # type: ignore[no-untyped-def]
        cut = Cut(k, v, starts)
        with torch.enable_grad():
            ctx.q = q.detach().requires_grad_()
            read = Reading(cut, Groups.of(layout))
            ctx.out = read(ctx.q)
            assert read(ctx.q).equal(ctx.out)  # as a recomputed layer asks
        ctx.cut = cut
        return ctx.out.detach()

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        (dq,) = torch.autograd.grad(ctx.out, ctx.q, grad)
        return dq, *ctx.cut.joined(), None, None


@pytest.mark.parametrize("starts", [[0], [0, 1, 2, 9], [0, 5, 6, 13], list(range(17))], ids=str)
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(("texts", "videos"), [([5], [17]), ([3, 8, 2], [4, 1, 12]), ([3, 8, 2], [5, 0, 12])], ids=str)
def test_outputs_and_gradients(
    monkeypatch: pytest.MonkeyPatch, texts: list[int], videos: list[int], heads: int, kv_heads: int, starts: list[int]
) -> None:
    monkeypatch.setattr(partial, "_SCORES_PER_BLOCK", 64)  # several blocks of rows

    def in_parts(q: Tensor, k: Tensor, v: Tensor, layout: CrossLayout) -> Tensor:
        return _FromParts.apply(q, k, v, starts, layout)

    layout = cross_layout(texts, videos)
    compare(in_parts, reference.cross_attention, tensors(sum(texts), sum(videos), heads, kv_heads), layout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_precisions(dtype: torch.dtype) -> None:
    layout = cross_layout([3, 8, 2], [5, 0, 12])
    assert layout is not None
    q, k, v = (t.detach().to(dtype) for t in tensors(13, 17, 4, 2))
    out = Reading(Cut(k, v, [0, 4, 11]), Groups.of(layout))(q)
    assert out.dtype == dtype
    tolerance = 1e-6 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(out, reference.cross_attention(q, k, v, layout), rtol=tolerance, atol=tolerance)


def test_results_over_different_keys_become_one() -> None:
    """As between ranks: each has the parts it made, in any order, and one may have none of a sample's."""
    layout = cross_layout([3, 8], [5, 12])
    assert layout is not None
    q, k, v = (t.detach() for t in tensors(11, 17, 4, 2))
    groups, parts = Groups.of(layout).groups, Cut(k, v, [0, 4, 11, 15]).parts
    own = [partial.attend(q, held, groups) for held in ([], parts[3:], [parts[2], parts[0]], [parts[1]])]
    out, lse = own[0]
    assert (out == 0).all() and (lse == -torch.inf).all()
    for other in own[1:]:
        out, lse = partial.merge(out, lse, *other)
    torch.testing.assert_close(out, reference.cross_attention(q, k, v, layout), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(lse, partial.attend(q, parts, groups)[1], rtol=1e-12, atol=1e-12)
