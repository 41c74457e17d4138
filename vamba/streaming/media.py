"""What has been shown of a video so far: sizes, counts, and where each video token lies. Pure arithmetic.

A stream is one item after the other (a video, or a picture beside it). An item grows by whole frame pairs of one size;
its positions count from 0, whatever came before it.

Shapes: M video tokens of a span.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vamba.data.batch import Grid
from vamba.model.config import ModelConfig
from vamba.model.positions import Rotary, video_rotary


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """The items of a stream, in order."""

    merge_size: int
    """Side, in patches, of the square that becomes one video token."""
    grids: tuple[Grid, ...] = ()
    """(frame pairs, patch rows, patch columns) of each item."""

    @property
    def num_tokens(self) -> int:
        return sum(pairs * self.tokens_per_pair(height, width) for pairs, height, width in self.grids)

    @property
    def num_pairs(self) -> int:
        return sum(pairs for pairs, _, _ in self.grids)

    def tokens_per_pair(self, height: int, width: int) -> int:
        """Video tokens of a frame pair of so many patches."""
        return height * width // self.merge_size**2

    def followed_by(self, grid: Grid, *, new_item: bool) -> Media:
        """These and more frame pairs: of the last item, or of a new one. ValueError when an item would change size."""
        pairs, height, width = grid
        if min(grid) < 1 or height % self.merge_size or width % self.merge_size:
            raise ValueError(f"the grid {grid} is not of whole frame pairs of multiples of {self.merge_size} patches")
        if new_item or not self.grids:
            return replace(self, grids=(*self.grids, grid))
        before, *size = self.grids[-1]
        if size != [height, width]:
            raise ValueError(
                f"the pieces of a video change size: {(height, width)} patches after {tuple(size)}; give all frames of "
                "one video in one size"
            )
        return replace(self, grids=(*self.grids[:-1], (before + pairs, height, width)))

    def positions(self, start: int, stop: int) -> Tensor:
        """int64[3, M] frame pair, row and column of tokens [start, stop), from 0 in every item."""
        found, first = [], 0
        for pairs, height, width in self.grids:
            per_pair, columns = self.tokens_per_pair(height, width), width // self.merge_size
            end = first + pairs * per_pair
            token = np.arange(max(start, first), min(stop, end)) - first
            place = token % per_pair
            found.append(np.stack([token // per_pair, place // columns, place % columns]))
            first = end
        return torch.from_numpy(np.concatenate(found, axis=1))


def rotary_of_span(media: Media, start: int, config: ModelConfig, like_MD: Tensor) -> Rotary | None:
    """The positions of the tokens from `start` on in `like`'s precision; None where cross-attention is not rotated."""
    if not config.cross_attn_use_position_embeddings:
        return None
    positions_3M = media.positions(start, start + len(like_MD)).to(like_MD.device)
    return video_rotary(positions_3M, config.mrope_section, config.head_dim, config.rope_theta, like_MD.dtype)
