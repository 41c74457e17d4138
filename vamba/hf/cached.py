"""Text against what was computed before: a cache of its own keys and values, and videos that are already encoded.

Rows are padded here, because transformers' caches are: every row holds as many tokens as the others, and a mask says
which are real. All rows run as one list of B x T tokens through the layers; only attention sees rows.

Shapes: B rows, T new tokens per row, S cached and new tokens per row, H query heads, K key/value heads, D values per
head, V distinct videos.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vamba.model.positions import text_rotary
from vamba.ops.attention.cached import attend_cached
from vamba.streaming.memory import VideoMemory, VideoPass

if TYPE_CHECKING:
    from transformers import Cache

    from vamba.model.vamba import PackedVamba


@dataclass(frozen=True, slots=True, kw_only=True)
class RowVideos:
    """Which encoded video each row of a batch reads; rows without one read nothing."""

    memories: tuple[VideoMemory | None, ...]

    @classmethod
    def of(cls, given: RowVideos | VideoMemory | Sequence[VideoMemory | None], rows: int) -> RowVideos:
        """One video for all rows, or one (or None) per row.

        A RowVideos may be of fewer rows: `generate` repeats each of its rows equally often, for beams and samples.
        """
        if isinstance(given, VideoMemory):
            return cls(memories=(given,))
        memories = given.memories if isinstance(given, RowVideos) else tuple(given)
        if not memories or (rows % len(memories) if isinstance(given, RowVideos) else rows != len(memories)):
            raise ValueError(f"{len(memories)} videos were given for {rows} rows; give one, or one (or None) per row")
        return cls(memories=memories)

    def readers(self, rows: int, tokens_per_row: int) -> _RowReaders:
        """The videos, each with the tokens that read it, for a pass over `rows` rows."""
        repeats = rows // len(self.memories)
        readers = []
        for _, neighbours in groupby(self.memories, key=id):
            same = list(neighbours)
            num_tokens = len(same) * repeats * tokens_per_row
            video = None if same[0] is None else same[0].open_pass(num_tokens)
            readers.append(_Reader(video=video, num_tokens=num_tokens))
        return _RowReaders(readers=tuple(readers))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Reader:
    """Neighbouring rows about the same video, so that its keys are read once for all of them."""

    video: VideoPass | None
    num_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _RowReaders:
    readers: tuple[_Reader, ...]

    def read(self, layer: int, q_THD: Tensor) -> Tensor:
        """What every row's tokens see of its video in one layer."""
        parts = q_THD.split([reader.num_tokens for reader in self.readers])
        seen = [
            torch.zeros_like(q) if reader.video is None else reader.video.read(layer, q)
            for reader, q in zip(self.readers, parts, strict=True)
        ]  # fmt: skip
        return seen[0] if len(seen) == 1 else torch.cat(seen)


class _TextAttention:
    """Causal self-attention of new tokens over a cache (or over themselves alone), one object for all layers."""

    def __init__(self, rows: int, past: int, cache: Cache | None, attention_mask: Tensor | None) -> None:
        self.rows, self.past, self.cache = rows, past, cache
        self.given_mask = attention_mask
        self._mask_B1TS: Tensor | None = None

    def __call__(self, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, *, layer: int) -> Tensor:
        q, k, v = (t.unflatten(0, (self.rows, -1)).transpose(1, 2) for t in (q_THD, k_TKD, v_TKD))
        if self.cache is not None:
            k, v = self.cache.update(k, v, layer)
        if self._mask_B1TS is None:
            self._mask_B1TS = self._mask(q.shape[2], k.shape[2], q.device)
        return attend_cached(q, k, v, self._mask_B1TS).transpose(1, 2).flatten(0, 1)

    def _mask(self, new: int, total: int, device: torch.device) -> Tensor:
        """Bool: earlier and present tokens that are real. A padding token sees itself, so that no row is empty."""
        if self.given_mask is not None and self.given_mask.ndim == 4:
            return self.given_mask
        places_S = torch.arange(total, device=device)
        own_T1 = (self.past + torch.arange(new, device=device))[:, None]
        allowed = (places_S <= own_T1)[None, None]
        if self.given_mask is not None:
            real_BS = torch.zeros(self.rows, total, dtype=torch.bool, device=device)
            real_BS[:, : self.given_mask.shape[1]] = self.given_mask.bool()
            allowed = (allowed & real_BS[:, None, None]) | (places_S == own_T1)
        return allowed


def cached_hidden_states(
    model: PackedVamba,
    input_ids_BT: Tensor,
    *,
    attention_mask: Tensor | None,
    position_ids_BT: Tensor | None,
    cache: Cache | None,
    videos: RowVideos | None,
) -> Tensor:
    """Text hidden states (B, T, D) after the final norm; the cache, if any, now holds these tokens too."""
    rows, length = input_ids_BT.shape
    past = 0 if cache is None else int(cache.get_seq_length())
    if position_ids_BT is None:
        position_ids_BT = _positions(attention_mask, rows, past, length, input_ids_BT.device)
    config = model.architecture
    t_TD = model.model.embed_tokens(input_ids_BT.flatten())
    rotary = text_rotary(position_ids_BT.flatten(), config.head_dim, config.rope_theta, t_TD.dtype)
    attention = _TextAttention(rows, past, cache, attention_mask)
    readers = None if videos is None else videos.readers(rows, length)
    for index, layer in enumerate(model.model.hybrid_layers):
        read = None if readers is None else partial(readers.read, index)
        t_TD = layer.update_text(t_TD, rotary, partial(attention, layer=index), read)
    return model.model.norm(t_TD).unflatten(0, (rows, length))


def _positions(attention_mask: Tensor | None, rows: int, past: int, length: int, device: torch.device) -> Tensor:
    """Places of the new tokens among the real ones of their row."""
    if attention_mask is None or attention_mask.ndim != 2:
        return (past + torch.arange(length, device=device)).expand(rows, -1)
    return (attention_mask.cumsum(-1) - 1).clamp(min=0)[:, past : past + length]
