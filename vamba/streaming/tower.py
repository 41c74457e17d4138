"""The vision tower in a streamed backward pass: what is kept of it for a chunk, and how it runs again with gradients.

    trained of the tower    kept for a chunk                    run again
    nothing                 its video tokens                    nothing
    the merger              what the blocks made, four rows     the merger
                            to a token
    blocks as well          nothing                             the frame pairs of the chunk, block by block

A pair that lies in two chunks runs once where nothing but tokens is kept, and in both where it has gradients: each chunk
takes those of its own tokens. It also runs in both where the tower draws random numbers (dropout of adapters): those are the
chunk's own, and are drawn again with it.

Shapes: M video tokens, D width, S values kept per token, P patches, E the blocks' width.
"""  # noqa: E501

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vamba.data.batch import to_device, tower_layout
from vamba.streaming.chunks import Chunk, Frames, covering
from vamba.streaming.pixels import Pixels
from vamba.streaming.store import TOKENS, TensorStore


class _Tail(NamedTuple):
    """What the last frame pair made beyond its chunk."""

    start: int
    made_MS: Tensor


class TowerPass:
    """Video tokens of the chunks of one batch, forward and again for the backward pass."""

    def __init__(self, tower: Any, pixels: Pixels, store: TensorStore) -> None:
        self._tower, self._pixels, self._store = tower, pixels, store
        self._merge_size = tower.config.spatial_merge_size
        self._trains_merger = any(p.requires_grad for p in tower.merger.parameters())
        below = (*tower.blocks.parameters(), *tower.patch_embed.parameters())
        self._trains_blocks = any(p.requires_grad for p in below)
        self._keeps_tokens = self._trains_blocks or not self._trains_merger
        self._draws = any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in tower.modules())
        self._tail: _Tail | None = None

    def forward(self, chunk: Chunk, *, keep: bool) -> Tensor:
        """The tokens of a chunk, without gradients; what is needed again goes to the store if it is to be kept."""
        made_MS = self._made(chunk)
        if keep:
            self._store.append(TOKENS, (chunk.start, chunk.stop), () if self._trains_blocks else (made_MS,))
        return made_MS if self._keeps_tokens else self._merged(made_MS)

    def again(self, chunk: Chunk, kept: tuple[Tensor, ...]) -> Tensor:
        """The tokens of a chunk, from what was kept of it; they have a graph where something is trained."""
        if self._trains_blocks:
            frames = covering(self._pixels.grids, chunk.start, chunk.stop, merge_size=self._merge_size)
            made_MD = self._merged(self._features(frames, recompute=True))
            return made_MD[frames.lead : len(made_MD) - frames.trail]
        return self._merged(kept[0]) if self._trains_merger else kept[0]

    def _made(self, chunk: Chunk) -> Tensor:
        tail, self._tail = self._tail, None
        parts, start = [], chunk.start
        if tail is not None and tail.start == start:
            parts.append(tail.made_MS[: chunk.num_tokens])
            start += len(parts[0])
            if len(tail.made_MS) > chunk.num_tokens:
                self._tail = _Tail(chunk.stop, tail.made_MS[chunk.num_tokens :])
        if start < chunk.stop:
            frames = covering(self._pixels.grids, start, chunk.stop, merge_size=self._merge_size)
            made_MS = self._features(frames, recompute=False)
            if self._keeps_tokens:
                made_MS = self._merged(made_MS)
            end = len(made_MS) - frames.trail
            if frames.trail and not self._draws:
                self._tail = _Tail(chunk.stop, made_MS[end:].clone())
            parts.append(made_MS[frames.lead : end])
        return parts[0].clone() if len(parts) == 1 else torch.cat(parts)

    def _features(self, frames: Frames, *, recompute: bool) -> Tensor:
        """(M, 4 E) what the blocks make of whole pairs, in the order of their tokens."""
        layout = tower_layout(frames.grids, merge_size=self._merge_size)
        patches_PC = self._pixels.patches(frames)
        x_PE = self._tower.features(patches_PC, to_device(layout, patches_PC.device), recompute=recompute)
        made_MS = x_PE.unflatten(0, (-1, self._merge_size**2)).flatten(1)
        return made_MS if layout.restore_M is None else made_MS.index_select(0, layout.restore_M.to(made_MS.device))

    def _merged(self, made_MS: Tensor) -> Tensor:
        return self._tower.merger(made_MS.unflatten(1, (self._merge_size**2, -1)).flatten(0, 1))
