"""Packed attention against its definition: causal inside a segment, all keys of the own sample and no others."""

from __future__ import annotations

import pytest
import torch

from tests.vamba.ops.attention_cases import compare, tensors
from vamba.ops.attention import reference, sdpa
from vamba.ops.attention.layout import cross_layout, pad, segments, unpad


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize("lengths", [[13], [5, 5, 5], [1, 11, 4, 7]])
def test_self_attention(lengths: list[int], heads: int, kv_heads: int) -> None:
    total = sum(lengths)
    compare(sdpa.self_attention, reference.self_attention, tensors(total, total, heads, kv_heads), segments(lengths))


@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 4), (4, 2), (6, 1)])
@pytest.mark.parametrize(
    ("texts", "videos"),
    [([5], [9]), ([4, 4], [6, 6]), ([3, 8, 2], [5, 1, 12]), ([3, 8, 2], [5, 0, 12]), ([3, 8], [0, 4])],
)
def test_cross_attention(texts: list[int], videos: list[int], heads: int, kv_heads: int) -> None:
    layout = cross_layout(texts, videos)
    compare(sdpa.cross_attention, reference.cross_attention, tensors(sum(texts), sum(videos), heads, kv_heads), layout)


def test_no_video_no_layout() -> None:
    assert cross_layout([3, 4], [0, 0]) is None


def test_text_without_video_reads_nothing() -> None:
    layout = cross_layout([3, 8, 2], [5, 0, 12])
    assert layout is not None
    out = sdpa.cross_attention(*tensors(13, 17, 4, 2), layout=layout)
    assert (out[3:11] == 0).all()
    assert (out[:3] != 0).any()


def test_pad_and_unpad_are_inverse() -> None:
    layout = segments([2, 5, 3])
    packed = torch.randn(10, 4)
    grid = pad(packed, layout)
    assert grid.shape == (3, 5, 4)
    assert (grid[0, 2:] == 0).all()
    assert torch.equal(unpad(grid, layout), packed)
