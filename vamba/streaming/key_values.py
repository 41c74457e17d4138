"""Chunk-major encoding: each chunk through all layers, whose keys and values are kept.

    chunk ──> layer by layer, each mixer carried on ──> keys and values ── a whole block of them ──> store
    tail  ──> the same from a copy of the states    ──> joined to what is no whole block yet: the memory's rest

Shapes: M video tokens, D width, K key/value heads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from vamba.model.layer import KeysValues
from vamba.model.mixer import MixerState
from vamba.streaming.media import Media, rotary_of_span
from vamba.streaming.memory import KeyValueMemory
from vamba.streaming.placement import Placement
from vamba.streaming.store import TensorStore, keys_values
from vamba.streaming.walk import read_and_mix

if TYPE_CHECKING:
    from vamba.model.vamba import PackedVamba

_Parts = list[list[KeysValues]]
"""Per layer, in order."""


class KeyValueBuilder:
    """Takes whole chunks; makes a `KeyValueMemory` whenever one is asked for."""

    def __init__(
        self, model: PackedVamba, placement: Placement, store: TensorStore, chunk_tokens: int, block_tokens: int
    ) -> None:
        self._model, self._placement, self._store = model, placement, store
        self._chunk_tokens, self._block_tokens = chunk_tokens, block_tokens
        layers = model.model.hybrid_layers
        self._states: tuple[MixerState | None, ...] = (None,) * len(layers)
        self._open: _Parts = [[] for _ in layers]
        self._blocks: tuple[int, ...] = ()
        self._edge = 0

    @classmethod
    def begin(cls, model: PackedVamba, placement: Placement, chunk_tokens: int, block_tokens: int) -> Self:
        """An empty one with a store of its own."""
        weight = model.model.hybrid_layers[0].cross_attn.k_proj.weight
        return cls(model, placement, placement.open_store(weight.device, weight.dtype), chunk_tokens, block_tokens)

    @classmethod
    def after(cls, model: PackedVamba, memory: KeyValueMemory) -> Self:
        """One that goes on at the memory's edge, in the same store."""
        builder = cls(model, memory.placement, memory.store, memory.chunk_tokens, memory.block_tokens)
        builder._states, builder._blocks, builder._edge = memory.states, memory.blocks, memory.edge
        whole = memory.edge - memory.rest_start
        if whole:
            builder._open = [[(k_MKD[:whole], v_MKD[:whole])] for k_MKD, v_MKD in memory.rest]
        return builder

    def add(self, chunk_MD: Tensor, media: Media) -> None:
        made, self._states = self._walk(chunk_MD, media)
        for parts, part in zip(self._open, made, strict=True):
            parts.append(part)
        self._edge += len(chunk_MD)
        if self._edge % self._block_tokens == 0:
            self._close_block()

    def memory(self, tail_MD: Tensor, media: Media, times_ns: tuple[int, ...]) -> KeyValueMemory:
        rest: _Parts = [list(parts) for parts in self._open]
        made, _ = self._walk(tail_MD, media)
        for parts, part in zip(rest, made, strict=True):
            parts.append(part)
        return KeyValueMemory(
            media=media,
            times_ns=times_ns,
            ops=self._model.ops,
            placement=self._placement,
            store=self._store,
            chunk_tokens=self._chunk_tokens,
            block_tokens=self._block_tokens,
            tail_MD=tail_MD,
            blocks=self._blocks,
            rest=tuple(_joined(parts) for parts in rest),
            states=self._states,
        )

    def _walk(self, stream_MD: Tensor, media: Media) -> tuple[list[KeysValues], tuple[MixerState | None, ...]]:
        """Tokens from the edge on through all layers: keys and values of each, and the states they leave."""
        rotary = rotary_of_span(media, self._edge, self._model.architecture, stream_MD)
        made, states = [], []
        for layer, state in zip(self._model.model.hybrid_layers, self._states, strict=True):
            k_MKD, v_MKD, stream_MD, state = read_and_mix(layer, stream_MD, rotary, None, state)
            made.append((k_MKD, v_MKD))
            states.append(None if state is None else _alone(state))
        return made, tuple(states)

    def _close_block(self) -> None:
        span = (self._edge - self._block_tokens, self._edge)
        # Other memories may have put blocks into the store since: this one's are those it lists.
        self._blocks += (len(self._store.spans(keys_values(0))),)
        for layer, parts in enumerate(self._open):
            self._store.append(keys_values(layer), span, _joined(parts))
            parts.clear()


def _joined(parts: list[KeysValues]) -> KeysValues:
    k_MKD, v_MKD = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
    return k_MKD, v_MKD


def _alone(state: MixerState) -> MixerState:
    """In memory of its own: the convolution's is a view of its whole input."""
    return MixerState(conv_BCW=state.conv_BCW.clone(), ssm_BHPN=state.ssm_BHPN)
