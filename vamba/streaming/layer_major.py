"""Layer-major encoding: only the video tokens are kept; each pass of text takes them through the layers once more.

    chunks ──> store                                      encoding ends with the tower
    a pass: for each layer, keys and values of every chunk ── read ──> text
                            then all chunks through the mixer ──> the stream of the layer above, in the place of this one's

An eighth of the keys and values at 7B, for a pass of all mixers per word of the answer: for videos whose keys and values fit
nowhere, and for questions that one word answers. The numbers are those of the other order, bit for bit.

Shapes: M video tokens, D width, K key/value heads.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from vamba.model.mixer import MixerState
from vamba.ops.attention.partial import Part
from vamba.streaming.media import Media, rotary_of_span
from vamba.streaming.memory import VideoMemory, VideoPass
from vamba.streaming.placement import Placement
from vamba.streaming.store import TOKENS, TensorStore

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba

_STREAM = "stream"
"""The slot of a pass's own store: the stream as its layer sees it."""


@dataclass(frozen=True, kw_only=True)
class TokenMemory(VideoMemory):
    """The tower's tokens, and the model whose layers they run through. chunks: the parts of the store that are its."""

    model: PackedVamba
    chunks: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        return self.num_tokens * self.tail_MD.shape[1] * self.tail_MD.element_size()

    def stream(self) -> Iterator[Tensor]:
        """The tokens, chunk after chunk, and the tail."""
        for (tokens_MD,) in self.store.read((TOKENS, chunk) for chunk in self.chunks):
            yield tokens_MD
        yield self.tail_MD

    def open_pass(self, num_queries: int) -> VideoPass:
        return _LayerMajorPass(self, num_queries)


class TokenBuilder:
    """Takes whole chunks; makes a `TokenMemory` whenever one is asked for."""

    def __init__(
        self, model: PackedVamba, placement: Placement, store: TensorStore, chunk_tokens: int, block_tokens: int
    ) -> None:
        self._model, self._placement, self._store = model, placement, store
        self._chunk_tokens, self._block_tokens = chunk_tokens, block_tokens
        self._chunks: tuple[int, ...] = ()

    @classmethod
    def begin(cls, model: PackedVamba, placement: Placement, chunk_tokens: int, block_tokens: int) -> Self:
        """An empty one with a store of its own."""
        weight = model.model.embed_tokens.weight
        return cls(model, placement, placement.open_store(weight.device, weight.dtype), chunk_tokens, block_tokens)

    @classmethod
    def after(cls, model: PackedVamba, memory: TokenMemory) -> Self:
        """One that goes on at the memory's edge, in the same store."""
        builder = cls(model, memory.placement, memory.store, memory.chunk_tokens, memory.block_tokens)
        builder._chunks = memory.chunks
        return builder

    def add(self, chunk_MD: Tensor, media: Media) -> None:
        start = len(self._chunks) * self._chunk_tokens
        self._chunks += (len(self._store.spans(TOKENS)),)
        self._store.append(TOKENS, (start, start + len(chunk_MD)), (chunk_MD.clone(),))

    def memory(self, tail_MD: Tensor, media: Media, times_ns: tuple[int, ...]) -> TokenMemory:
        return TokenMemory(
            media=media,
            times_ns=times_ns,
            ops=self._model.ops,
            placement=self._placement,
            store=self._store,
            chunk_tokens=self._chunk_tokens,
            block_tokens=self._block_tokens,
            tail_MD=tail_MD,
            model=self._model,
            chunks=self._chunks,
        )


class _LayerMajorPass(VideoPass):
    def __init__(self, memory: TokenMemory, num_queries: int) -> None:
        super().__init__(memory, num_queries)
        self._memory, self._layers = memory, memory.model.model.hybrid_layers
        self._layer = 0
        self._store: TensorStore | None = None
        """Of the stream above the lowest layer."""

    def parts(self, layer: int) -> Iterator[Part]:
        self._climb_to(layer)
        memory = self._memory
        keys: list[Tensor] = []
        values: list[Tensor] = []
        start = made = 0
        for stream_MD in self._stream():
            rotary = rotary_of_span(memory.media, made, memory.model.architecture, stream_MD)
            with torch.no_grad():
                _, (k_MKD, v_MKD) = self._layers[layer].read_video(stream_MD, rotary)
            keys.append(k_MKD)
            values.append(v_MKD)
            made += len(k_MKD)
            if made - start == memory.block_tokens <= memory.rest_start - start or made == memory.num_tokens:
                yield Part(start, torch.cat(keys), torch.cat(values))
                start = made
                keys.clear()
                values.clear()

    def _stream(self) -> Iterator[Tensor]:
        if self._store is None:
            return self._memory.stream()
        count = len(self._store.spans(_STREAM))
        return (tensors[0] for tensors in self._store.read((_STREAM, index) for index in range(count)))

    @torch.no_grad()
    def _climb_to(self, layer: int) -> None:
        assert layer >= self._layer, "the layers of a pass are asked from the lowest up"
        while self._layer < layer:
            state: MixerState | None = None
            first, source = self._store is None, self._stream()
            store = self._opened()
            for index, stream_MD in enumerate(source):
                stream_MD, _ = self._layers[self._layer].read_video(stream_MD, None)
                stream_MD, state = self._layers[self._layer].mix_video(stream_MD, None, state)
                if first:
                    store.append(_STREAM, (0, len(stream_MD)), (stream_MD.clone(),))
                else:
                    store.replace((_STREAM, index), (stream_MD,))
            self._layer += 1

    def _opened(self) -> TensorStore:
        if self._store is None:
            tokens_MD = self._memory.tail_MD
            self._store = self._memory.placement.open_store(tokens_MD.device, tokens_MD.dtype)
        return self._store
