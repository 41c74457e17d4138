"""A video, encoded once: each layer's keys and values for the text to read.

The video stream never depends on the text, so it can run alone, piece by piece, before the question is known: tower,
then through the layers, each carrying its mixer's state to the next piece. The result does not depend on how it was
cut.

Shapes: P patches, M video tokens, T text tokens, H query heads, K key/value heads, D values per head.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vamba.data.batch import Grid, to_device, video_layout
from vamba.model.positions import video_rotary
from vamba.ops.attention.layout import CrossLayout, Segments, segments

if TYPE_CHECKING:
    from vamba.model.mixer import MixerState
    from vamba.model.vamba import PackedVamba
    from vamba.ops.backends import Operations

_Piece = tuple[Tensor, Grid, int]
"""(patches, their grid, frame pairs of this item that came before)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoMemory:
    """What the text reads of one video, layer by layer."""

    keys: tuple[Tensor, ...]
    """(M, K, D) per layer."""
    values: tuple[Tensor, ...]
    """(M, K, D) per layer."""
    layout: Segments
    """All tokens in one run."""
    ops: Operations

    @property
    def num_tokens(self) -> int:
        return len(self.keys[0])

    @property
    def size_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def to(self, device: torch.device | str) -> VideoMemory:
        return replace(
            self,
            keys=tuple(t.to(device) for t in self.keys),
            values=tuple(t.to(device) for t in self.values),
            layout=to_device(self.layout, device),
        )

    def layout_for(self, num_queries: int) -> CrossLayout:
        """How that many queries meet the video: all of them see all of it. Made once per pass, read by every layer."""
        queries = to_device(segments([num_queries]), self.keys[0].device)
        return CrossLayout(queries=queries, keys=self.layout, key_mask_GL=None, query_tokens=None)

    def read(self, layer: int, q_THD: Tensor, layout: CrossLayout) -> Tensor:
        """What the queries see of the video in one layer; each key is read once for all of them."""
        return self.ops.cross_attention(q_THD, self.keys[layer], self.values[layer], layout=layout)


def encode_video(
    model: PackedVamba,
    patches: np.ndarray | Tensor,
    grid_thw: Grid | Sequence[Grid],
    *,
    chunk_tokens: int,
) -> VideoMemory:
    """The memory of the media items in `patches` (P, C), which follow each other in one stream.

    `chunk_tokens` bounds the video tokens in flight; a frame pair is never cut. ValueError when patches and grids
    disagree.
    """
    grids = _as_grids(grid_thw)
    rows = torch.as_tensor(patches)
    expected = sum(t * h * w for t, h, w in grids)
    if not grids or len(rows) != expected:
        raise ValueError(f"{len(rows)} patches were given, but the grids {grids} need {expected}")
    return _encode(model, _cut(rows, grids, chunk_tokens, model.architecture.vision.spatial_merge_size**2))


def encode_video_stream(model: PackedVamba, pieces: Iterable[tuple[np.ndarray | Tensor, Grid]]) -> VideoMemory:
    """The memory of one video from consecutive pieces of whole frame pairs; ValueError when they differ in size."""

    def numbered() -> Iterator[_Piece]:
        before = 0
        first: Grid | None = None
        for patches, grid in pieces:
            first = first or grid
            if grid[1:] != first[1:]:
                raise ValueError(f"the pieces of a video change size: {grid[1:]} patches after {first[1:]}")
            yield torch.as_tensor(patches), grid, before
            before += grid[0]

    return _encode(model, numbered())


@torch.no_grad()
def _encode(model: PackedVamba, pieces: Iterable[_Piece]) -> VideoMemory:
    layers, device = model.model.hybrid_layers, model.model.embed_tokens.weight.device
    states: list[MixerState | None] = [None] * len(layers)
    keys: list[list[Tensor]] = [[] for _ in layers]
    values: list[list[Tensor]] = [[] for _ in layers]
    for patches, grid, pairs_before in pieces:
        layout = video_layout([[grid]], merge_size=model.architecture.vision.spatial_merge_size)
        assert layout is not None
        v_MD = model.visual(patches.to(device), to_device(layout.tower, device))
        rotary = None
        if model.architecture.cross_attn_use_position_embeddings:
            positions = layout.position_ids_3M + torch.tensor([[pairs_before], [0], [0]])
            config = model.architecture
            rotary = video_rotary(
                positions.to(device), config.mrope_section, config.head_dim, config.rope_theta, v_MD.dtype
            )
        for index, layer in enumerate(layers):
            v_MD, (k_MKD, v_MKD) = layer.read_video(v_MD, rotary)
            keys[index].append(k_MKD)
            values[index].append(v_MKD)
            v_MD, states[index] = layer.mix_video(v_MD, None, states[index])
    if not keys[0]:
        raise ValueError("the video has no frames: nothing to encode")
    joined = [tuple(torch.cat(parts) for parts in kind) for kind in (keys, values)]
    run = to_device(segments([len(joined[0][0])]), device)
    return VideoMemory(keys=joined[0], values=joined[1], layout=run, ops=model.ops)


def _cut(patches: Tensor, grids: Sequence[Grid], chunk_tokens: int, cell: int) -> Iterator[_Piece]:
    row = 0
    for t, h, w in grids:
        step = max(1, chunk_tokens * cell // (h * w))
        for first in range(0, t, step):
            pairs = min(step, t - first)
            size = pairs * h * w
            yield patches[row : row + size], (pairs, h, w), first
            row += size


def _as_grids(grid_thw: Grid | Sequence[Grid]) -> list[Grid]:
    return [(int(t), int(h), int(w)) for t, h, w in np.asarray(grid_thw, np.int64).reshape(-1, 3)]
