"""Where a walk keeps what it needs again: keys and values, states at chunk bounds, the tower's tokens.

A store has slots, a slot has parts in the order they were appended, and a part is a few tensors of any shapes and types
with the span of packed video tokens they are of:
    keys_values(layer)  (k_MKD, v_MKD) per chunk; in training the backward pass puts (dk, dv) in their place
    states(layer)       (conv_BCW, ssm_BHPN) with which a chunk began, where one came in
    TOKENS              (v_MD,) what the tower made of a chunk; their gradients afterwards
`DeviceStore` keeps the tensors as they are. Other kinds hold them in pinned host memory or on disk; they bring a part back
when it is read, and replacing one keeps its shapes and types.

Shapes: M video tokens of a part, K key/value heads, D values per head (or width).
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from torch import Tensor

from vamba.ops.attention.partial import Part

Span = tuple[int, int]
"""First token and end of a run of packed video tokens."""
Place = tuple[str, int]
"""A slot, and a part of it by its place in the order of appending."""

TOKENS = "tokens"


def keys_values(layer: int) -> str:
    """The slot of a layer's keys and values."""
    return f"keys_values/{layer}"


def states(layer: int) -> str:
    """The slot of a layer's states at chunk bounds."""
    return f"states/{layer}"


class TensorStore(Protocol):
    """Slots of parts. Tensors go in detached, and come out on the device where they are computed with."""

    def append(self, slot: str, span: Span, tensors: tuple[Tensor, ...]) -> None:
        """Put a part behind the others of its slot. The tensors belong to the store from now on."""

    def spans(self, slot: str) -> tuple[Span, ...]:
        """The span of every part of a slot, in order; nothing for a slot that was never used."""

    def read(self, places: Iterable[Place]) -> Iterator[tuple[Tensor, ...]]:
        """The parts at the given places, in that order. May fetch ahead, so none may be replaced before it is yielded.

        What is yielded may be changed by the next step of the iterator: use it first, or copy it.
        """

    def replace(self, place: Place, tensors: tuple[Tensor, ...]) -> None:
        """Put other tensors of the same shapes and types in the place of a part."""

    def drop(self, slot: str) -> None:
        """Forget a slot and free what it held."""

    def close(self) -> None:
        """Forget everything, files included."""


class DeviceStore:
    """The tensors themselves, where they were made."""

    def __init__(self) -> None:
        self._slots: dict[str, list[tuple[Span, tuple[Tensor, ...]]]] = {}

    def append(self, slot: str, span: Span, tensors: tuple[Tensor, ...]) -> None:
        self._slots.setdefault(slot, []).append((span, tuple(tensor.detach() for tensor in tensors)))

    def spans(self, slot: str) -> tuple[Span, ...]:
        return tuple(span for span, _ in self._slots.get(slot, ()))

    def read(self, places: Iterable[Place]) -> Iterator[tuple[Tensor, ...]]:
        for slot, index in places:
            yield self._slots[slot][index][1]

    def replace(self, place: Place, tensors: tuple[Tensor, ...]) -> None:
        slot, index = place
        span, before = self._slots[slot][index]
        assert [(t.shape, t.dtype) for t in before] == [(t.shape, t.dtype) for t in tensors], place
        self._slots[slot][index] = (span, tuple(tensor.detach() for tensor in tensors))

    def drop(self, slot: str) -> None:
        self._slots.pop(slot, None)

    def close(self) -> None:
        self._slots.clear()


class StoredKeysValues:
    """A layer's keys and values as attention in parts reads them (`vamba.ops.attention.partial.Parts`)."""

    def __init__(self, store: TensorStore, layer: int) -> None:
        self._store, self._slot = store, keys_values(layer)

    def __iter__(self) -> Iterator[Part]:
        spans = self._store.spans(self._slot)
        parts = self._store.read((self._slot, index) for index in range(len(spans)))
        for (start, _), (k_MKD, v_MKD) in zip(spans, parts, strict=True):
            yield Part(start, k_MKD, v_MKD)

    def replace(self, index: int, dk_MKD: Tensor, dv_MKD: Tensor) -> None:
        """Put the gradients in the place of the keys and values of part `index`."""
        self._store.replace((self._slot, index), (dk_MKD, dv_MKD))
