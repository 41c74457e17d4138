"""A video that was shown: what the text of any number of questions reads of it, layer by layer.

    VideoEncoder ──> VideoMemory ── open_pass ──> VideoPass.read(layer, queries), from the lowest layer up

Keys and values are in parts: blocks of `block_tokens` tokens, which lie in a store (on the device, in the host's memory, on
disk) and never change, and the rest, little more than a block at most, which stays on the device. Where blocks end depends on nothing but
their size, so the same video gives the same bits however it came in and wherever it lies. A video of one part is read by
the model's own attention, a longer one part after part.

A memory is immutable: one that is extended (`VideoEncoder(model, after=memory)`) shares its blocks with the longer one and
goes on saying what it said. Space in a store is given back when no memory needs the store.

Shapes: M video tokens, T text tokens, H query heads, K key/value heads, D values per head (or width).
"""  # noqa: E501

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from vamba.data.batch import to_device
from vamba.model.layer import KeysValues
from vamba.model.mixer import MixerState
from vamba.ops.attention.layout import CrossLayout, segments
from vamba.ops.attention.partial import Group, Part, attend
from vamba.streaming.media import Media
from vamba.streaming.placement import Placement
from vamba.streaming.store import TensorStore, keys_values

if TYPE_CHECKING:
    from vamba.ops.backends import Operations


@dataclass(frozen=True, kw_only=True)
class VideoMemory(ABC):
    """What all kinds of memory have.

    media: what was shown. times_ns: when each frame pair is shown, from the start of the video; empty where nobody said.
    placement: where it lies. chunk_tokens: video tokens that went through the layers at once. block_tokens: of a part.
    tail_MD: what the tower made of the tokens after the last chunk that is final: encoding goes on before them.
    """  # noqa: E501

    media: Media
    times_ns: tuple[int, ...]
    ops: Operations
    placement: Placement
    store: TensorStore
    chunk_tokens: int
    block_tokens: int
    tail_MD: Tensor

    @property
    def num_tokens(self) -> int:
        return self.media.num_tokens

    @property
    def edge(self) -> int:
        """The first token of the tail: a whole number of chunks."""
        return self.num_tokens - len(self.tail_MD)

    @property
    def rest_start(self) -> int:
        """The first token that is in no block."""
        return self.edge // self.block_tokens * self.block_tokens

    @property
    @abstractmethod
    def size_bytes(self) -> int:
        """Of what is kept of every token."""

    @abstractmethod
    def open_pass(self, num_queries: int) -> VideoPass:
        """A pass of so many text tokens through the layers. All of them see all of the video."""


class VideoPass(ABC):
    """How the text of one pass finds the video: made once per pass, asked by every layer, from the lowest up."""

    def __init__(self, memory: VideoMemory, num_queries: int) -> None:
        self._ops, self._layout = memory.ops, None
        self._group = Group(slice(0, num_queries), 0, memory.num_tokens)
        if not memory.rest_start:
            queries, keys = (segments([number]) for number in (num_queries, memory.num_tokens))
            layout = CrossLayout(queries=queries, keys=keys, key_mask_GL=None, query_tokens=None)
            self._layout = to_device(layout, memory.tail_MD.device)

    @abstractmethod
    def parts(self, layer: int) -> Iterator[Part]:
        """Keys and values of one layer on the device, part after part; use each before the next, or copy it.

        A layer may be asked again, those below it no more.
        """

    def read(self, layer: int, q_THD: Tensor) -> Tensor:
        """What the queries see of the video in one layer (T, H, D); each key is read once for all of them."""
        if self._layout is not None:
            (part,) = self.parts(layer)
            return self._ops.cross_attention(q_THD, part.k_MKD, part.v_MKD, layout=self._layout)
        out_THD, _ = attend(q_THD, self.parts(layer), (self._group,))
        return out_THD.to(q_THD.dtype)


@dataclass(frozen=True, kw_only=True)
class KeyValueMemory(VideoMemory):
    """Every layer's keys and values.

    blocks: the parts of the store that are this video's, in order. rest: (k_MKD, v_MKD) per layer of the tokens after
    them. states: what each mixer carries over the edge; None for one that does not run.
    """

    blocks: tuple[int, ...]
    rest: tuple[KeysValues, ...]
    states: tuple[MixerState | None, ...]

    @property
    def size_bytes(self) -> int:
        k_MKD, _ = self.rest[0]
        num_values, wide = 2 * math.prod(k_MKD.shape[1:]), k_MKD.element_size()
        in_blocks = self.rest_start * (1 if self.placement.fp8 else wide)
        return len(self.rest) * num_values * (in_blocks + len(k_MKD) * wide)

    def parts(self, layer: int) -> Iterator[Part]:
        """Keys and values of one layer, block after block, and the rest."""
        slot = keys_values(layer)
        blocks = self.store.read((slot, block) for block in self.blocks)
        for number, (k_MKD, v_MKD) in enumerate(blocks):
            yield Part(number * self.block_tokens, k_MKD, v_MKD)
        yield Part(self.rest_start, *self.rest[layer])

    def open_pass(self, num_queries: int) -> VideoPass:
        return _KeyValuePass(self, num_queries)


class _KeyValuePass(VideoPass):
    def __init__(self, memory: KeyValueMemory, num_queries: int) -> None:
        super().__init__(memory, num_queries)
        self._memory = memory

    def parts(self, layer: int) -> Iterator[Part]:
        return self._memory.parts(layer)
