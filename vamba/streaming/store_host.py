"""Parts in the host's page-locked memory, for tensors of a GPU: copied there and back beside the computation.

    append: GPU ── a stream of copies out ──> pinned memory          read: pinned memory ── a stream of copies in ──> GPU
                                                                     two parts ahead of the one that is used

Streams order the copies: one out waits for what is computed, one in for the copy out of the same part, and whoever uses a
part for its copy in. The host itself waits for none of them.
"""  # noqa: E501

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from vamba.streaming.store import Place, Span

_AHEAD = 2


class _Held(NamedTuple):
    tensors: tuple[Tensor, ...]
    written: torch.cuda.Event


class HostStore:
    """Needs a CUDA device; on a CPU, `DeviceStore` is the same."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._out, self._in = torch.cuda.Stream(device), torch.cuda.Stream(device)
        self._slots: dict[str, list[tuple[Span, _Held]]] = {}

    def append(self, slot: str, span: Span, tensors: tuple[Tensor, ...]) -> None:
        pinned = tuple(torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True) for tensor in tensors)
        self._slots.setdefault(slot, []).append((span, self._copied_out(tensors, pinned)))

    def spans(self, slot: str) -> tuple[Span, ...]:
        return tuple(span for span, _ in self._slots.get(slot, ()))

    def read(self, places: Iterable[Place]) -> Iterator[tuple[Tensor, ...]]:
        coming: deque[_Held] = deque()
        for slot, index in places:
            coming.append(self._copied_in(self._slots[slot][index][1]))
            if len(coming) > _AHEAD:
                yield self._arrived(coming.popleft())
        while coming:
            yield self._arrived(coming.popleft())

    def replace(self, place: Place, tensors: tuple[Tensor, ...]) -> None:
        slot, index = place
        span, held = self._slots[slot][index]
        assert [(t.shape, t.dtype) for t in held.tensors] == [(t.shape, t.dtype) for t in tensors], place
        self._slots[slot][index] = (span, self._copied_out(tensors, held.tensors))

    def drop(self, slot: str) -> None:
        self._slots.pop(slot, None)

    def close(self) -> None:
        self._slots.clear()

    def _copied_out(self, tensors: tuple[Tensor, ...], pinned: tuple[Tensor, ...]) -> _Held:
        self._out.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._out):
            for source, target in zip(tensors, pinned, strict=True):
                target.copy_(source.detach(), non_blocking=True)
                source.record_stream(self._out)
            return _Held(pinned, self._out.record_event())

    def _copied_in(self, held: _Held) -> _Held:
        with torch.cuda.stream(self._in):
            self._in.wait_event(held.written)
            tensors = tuple(tensor.to(self._device, non_blocking=True) for tensor in held.tensors)
            return _Held(tensors, self._in.record_event())

    def _arrived(self, held: _Held) -> tuple[Tensor, ...]:
        current = torch.cuda.current_stream(self._device)
        current.wait_event(held.written)
        for tensor in held.tensors:
            tensor.record_stream(current)
        return held.tensors
