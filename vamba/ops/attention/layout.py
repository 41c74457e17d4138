"""Where packed tokens sit: the index arithmetic of variable-length attention, done once per batch on the host.

Packed sequences are concatenated without padding; attention kernels that know no segments want a padded grid. A layout
holds, for every packed token, its slot in that grid, so that padding is one scatter and its inverse one gather, the
same in every layer. Implementations with native segments read `cu_seqlens` and `max_len` instead.

Shapes: T packed text tokens, M packed video tokens, S segments, L longest segment, G samples that have a video.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Segments:
    """S consecutive runs of packed tokens."""

    cu_seqlens: Tensor
    """int32[S + 1] token offset of each segment, and the end."""
    slot_T: Tensor
    """int64[T] each token's place in the flattened (S, max_len) grid."""
    num_segments: int
    max_len: int
    """Tokens of the longest segment."""
    uniform: bool
    """All segments have `max_len` tokens: the grid is the packed sequence itself."""

    @property
    def is_single(self) -> bool:
        return self.num_segments == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class CrossLayout:
    """Which text tokens read which video tokens: group g's queries see all keys of group g and no others."""

    queries: Segments
    keys: Segments
    key_mask_GL: Tensor | None
    """bool[G, longest key segment], True at real keys; None where all groups are equally long."""
    query_tokens: Tensor | None
    """int64[tokens with a video] their places in the text; None where every text token has one."""


def segments(lengths: Sequence[int]) -> Segments:
    """The layout of consecutive segments of the given lengths (tokens)."""
    sizes = np.asarray(lengths, np.int64)
    ends = np.cumsum(sizes)
    max_len = int(sizes.max())
    shift = np.arange(len(sizes)) * max_len - (ends - sizes)
    slots = np.arange(int(ends[-1])) + np.repeat(shift, sizes)
    return Segments(
        cu_seqlens=torch.from_numpy(np.concatenate([[0], ends]).astype(np.int32)),
        slot_T=torch.from_numpy(slots),
        num_segments=len(sizes),
        max_len=max_len,
        uniform=bool((sizes == max_len).all()),
    )


def cross_layout(text_lengths: Sequence[int], video_lengths: Sequence[int]) -> CrossLayout | None:
    """The layout of samples with so many text and video tokens each; None when no sample has a video."""
    assert len(text_lengths) == len(video_lengths)
    seen = np.asarray(video_lengths) > 0
    if not seen.any():
        return None
    query_lengths = [n for n, has_video in zip(text_lengths, seen, strict=True) if has_video]
    keys = segments([n for n in video_lengths if n])
    key_mask = None
    if not keys.uniform:
        key_mask = torch.zeros(keys.num_segments * keys.max_len, dtype=torch.bool)
        key_mask[keys.slot_T] = True
        key_mask = key_mask.view(keys.num_segments, keys.max_len)
    return CrossLayout(
        queries=segments(query_lengths),
        keys=keys,
        key_mask_GL=key_mask,
        query_tokens=None if seen.all() else torch.from_numpy(np.flatnonzero(np.repeat(seen, text_lengths))),
    )


def pad(packed: Tensor, layout: Segments) -> Tensor:
    """(T, ...) -> (S, L, ...), zeros where a segment is shorter than the longest."""
    if layout.uniform:
        return packed.unflatten(0, (layout.num_segments, layout.max_len))
    grid = packed.new_zeros(layout.num_segments * layout.max_len, *packed.shape[1:])
    return grid.index_copy(0, layout.slot_T, packed).unflatten(0, (layout.num_segments, layout.max_len))


def unpad(grid: Tensor, layout: Segments) -> Tensor:
    """(S, L, ...) -> (T, ...): the inverse of `pad`."""
    flat = grid.flatten(0, 1)
    return flat if layout.uniform else flat.index_select(0, layout.slot_T)
