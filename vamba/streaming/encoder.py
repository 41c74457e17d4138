"""Frames in as they come, a `VideoMemory` out: the video side of the model, run before any question is known.

    add(patches, grid), any number of frame pairs ── tower, some pairs at once ──> video tokens
        ── whole chunks, counted from the start of the video ──> builder: through the layers (chunk-major), or kept as they are
    finish() ──> what is kept of the chunks, and the tail: tokens that were not enough for one more

`finish` may be called at any time and changes nothing: frames can be added afterwards, here or (`after`) to a memory that was
loaded from a file. Chunks are a multiple of the scan's own, so the result is that of one pass over the whole video; on a
CPU in float32 bit for bit. For that neither chunks nor the tail are shorter than a chunk of the scan and `_LEAST_ROWS`, if
the video is not, and the tower's last few pairs run with some of them repeated: products of few rows round differently from
products of many.

Shapes: P patches, C values per patch, M video tokens, D width.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor

from vamba.data.batch import Grid, to_device, tower_layout
from vamba.streaming.chunks import aligned
from vamba.streaming.key_values import KeyValueBuilder
from vamba.streaming.layer_major import TokenBuilder
from vamba.streaming.media import Media
from vamba.streaming.memory import VideoMemory
from vamba.streaming.placement import BLOCK_TOKENS, CHUNK_TOKENS, Placement

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba

_LEAST_ROWS = 16
"""Of a matrix product on two threads of a CPU: below 4, and at most sizes below 12, it rounds as no larger one does."""


class Builder(Protocol):
    """What becomes of the tokens, by order."""

    def add(self, chunk_MD: Tensor, media: Media) -> None:
        """The next whole chunk; `media` has at least its tokens."""

    def memory(self, tail_MD: Tensor, media: Media, times_ns: tuple[int, ...]) -> VideoMemory:
        """All chunks and a tail; what comes later changes nothing about it."""


class VideoEncoder:
    """One video, or one stream of media, in the making."""

    def __init__(
        self,
        model: PackedVamba,
        placement: Placement | None = None,
        *,
        chunk_tokens: int = CHUNK_TOKENS,
        block_tokens: int = BLOCK_TOKENS,
        after: VideoMemory | None = None,
    ) -> None:
        """after: go on where this memory ends, with its placement and sizes; it stays as it is.

        chunk_tokens: video tokens that go through the layers at once; rounded up to 16 and to whole chunks of the scan.
        block_tokens: of a part of what is kept, rounded up to whole chunks.
        """
        config = model.architecture
        self._tower, self._device = model.visual, model.model.embed_tokens.weight.device
        wanted = max(chunk_tokens, _LEAST_ROWS)
        self._chunk_tokens = aligned(wanted, config.mixer.chunk_size) if after is None else after.chunk_tokens
        self._least_tail = max(config.mixer.chunk_size, _LEAST_ROWS)
        self._builder: Builder
        if after is None:
            block_tokens = aligned(block_tokens, self._chunk_tokens)
            placement = placement or Placement()
            kind = TokenBuilder if placement.order == "layer-major" else KeyValueBuilder
            self._builder = kind.begin(model, placement, self._chunk_tokens, block_tokens)
            self._media, self._times_ns = Media(merge_size=config.vision.spatial_merge_size), []
            self._tokens: list[Tensor] = []
        else:
            kind = TokenBuilder if after.placement.order == "layer-major" else KeyValueBuilder
            self._builder = kind.after(model, after)  # type: ignore[arg-type]
            self._media, self._times_ns = after.media, list(after.times_ns)
            self._tokens = [after.tail_MD]
        self._waiting: list[Tensor] = []
        """Patches that have not been through the tower, all of the last item."""

    @property
    def num_tokens(self) -> int:
        """Video tokens of all frames that were added."""
        return self._media.num_tokens

    @torch.no_grad()
    def add(
        self, patches: np.ndarray | Tensor, grid: Grid, *, new_item: bool = False, times_ns: Sequence[int] = ()
    ) -> None:
        """Show the next frame pairs, (P, C): of the same video, or of a new item with positions and a size of its own.

        times_ns: when each pair is shown. ValueError when patches and grid disagree, or an item would change size.
        """
        rows, (pairs, height, width) = torch.as_tensor(patches), grid
        if len(rows) != pairs * height * width:
            raise ValueError(f"{len(rows)} patches were given, but the grid {grid} needs {pairs * height * width}")
        if len(times_ns) not in (0, pairs) or (bool(times_ns) != bool(self._times_ns) and self._media.grids):
            raise ValueError(
                f"{len(times_ns)} times were given for {pairs} frame pairs; give one for each pair, or none"
            )
        media = self._media.followed_by(grid, new_item=new_item)
        if new_item:
            self._run_tower()
        self._media = media
        self._times_ns += times_ns
        # As many pairs at once as make a chunk: one by one they would leave a GPU idle.
        run_rows = max(1, self._chunk_tokens // media.tokens_per_pair(height, width)) * height * width
        room = run_rows - sum(map(len, self._waiting))
        while len(rows) >= room:
            self._waiting.append(rows[:room])
            self._run_tower()
            rows, room = rows[room:], run_rows
        if len(rows):
            self._waiting.append(rows.clone())  # the caller may put the next frames in the same memory

    @torch.no_grad()
    def finish(self) -> VideoMemory:
        """The memory of all that was added so far. ValueError when that is nothing."""
        if not self._media.grids:
            raise ValueError("the video has no frames: nothing to encode")
        self._run_tower(is_whole=self.num_tokens < _LEAST_ROWS)
        tail_MD = torch.cat(self._tokens)
        self._tokens = [tail_MD]
        return self._builder.memory(tail_MD, self._media, tuple(self._times_ns))

    def _run_tower(self, *, is_whole: bool = False) -> None:
        """The patches that wait become tokens, and those whole chunks. is_whole: they are all of a very short video."""
        if not self._waiting:
            return
        patches_PC = (self._waiting[0] if len(self._waiting) == 1 else torch.cat(self._waiting)).to(self._device)
        self._waiting = []
        _, height, width = self._media.grids[-1]
        rows, per_pair = height * width, self._media.tokens_per_pair(height, width)
        pairs = len(patches_PC) // rows
        missing = 0 if is_whole else max(0, math.ceil(_LEAST_ROWS / per_pair) - pairs)
        if missing:
            patches_PC = torch.cat([patches_PC, patches_PC[-rows:].repeat(missing, 1)])
        layout = tower_layout([(pairs + missing, height, width)], merge_size=self._media.merge_size)
        self._tokens.append(self._tower(patches_PC, to_device(layout, self._device))[: pairs * per_pair])
        num_chunks = (sum(map(len, self._tokens)) - self._least_tail) // self._chunk_tokens
        if num_chunks > 0:
            tokens_MD = torch.cat(self._tokens)
            whole = num_chunks * self._chunk_tokens
            for chunk_MD in tokens_MD[:whole].split(self._chunk_tokens):
                self._builder.add(chunk_MD, self._media)
            self._tokens = [tokens_MD[whole:].clone()]  # a view would keep the chunks


def encode_video(
    model: PackedVamba,
    patches: np.ndarray | Tensor,
    grid_thw: Grid | Sequence[Grid],
    *,
    placement: Placement | None = None,
    chunk_tokens: int = CHUNK_TOKENS,
) -> VideoMemory:
    """The memory of media items that are at hand, one after the other in `patches` (P, C).

    ValueError when patches and grids disagree.
    """
    grids: list[Grid] = [(int(t), int(h), int(w)) for t, h, w in np.asarray(grid_thw, np.int64).reshape(-1, 3)]
    rows = torch.as_tensor(patches)
    sizes = [t * h * w for t, h, w in grids]
    if not grids or len(rows) != sum(sizes):
        raise ValueError(f"{len(rows)} patches were given, but the grids {grids} need {sum(sizes)}")
    encoder = VideoEncoder(model, placement, chunk_tokens=chunk_tokens)
    for part, grid in zip(rows.split(sizes), grids, strict=True):
        encoder.add(part, grid, new_item=True)
    return encoder.finish()


def encode_video_stream(
    model: PackedVamba, pieces: Iterable[tuple[np.ndarray | Tensor, Grid]], *, placement: Placement | None = None
) -> VideoMemory:
    """The memory of one video from consecutive pieces of whole frame pairs; ValueError when they differ in size."""
    encoder = VideoEncoder(model, placement)
    for patches, grid in pieces:
        encoder.add(patches, grid)
    return encoder.finish()
