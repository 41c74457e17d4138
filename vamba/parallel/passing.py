"""States on their way between the ranks that share a video: sent when a layer is done, awaited when one begins.

    forward walk     rank of chunk c   ── state after layer l ──>     rank of chunk c + 1
    backward walk    rank of chunk c   ── gradient of its start ──>   rank of chunk c - 1

Both ends know the chunks, so both know which messages there are and in which order: that of the sender's work. Receives
are posted ahead of their use, so that a message travels while something else is computed; a send keeps its buffer until
it is through. A message is one run of bytes, the convolution's inputs and then the scan's state.

A receive needs chunks before its own (in the backward walk, behind it), and a send waits for nothing. So no order of
the ranks' work can lock, however many chunks a video has and wherever its samples begin.

Shapes: B batch, H heads, P values per head, N state size, C convolution channels, W its width.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vamba.model.config import MixerConfig
from vamba.model.mixer import MixerState
from vamba.parallel.context import ContextGroup
from vamba.streaming.chunks import Chunk

_POSTED = 2
"""Receives on their way at once: one that is awaited and one behind it."""

_Place = tuple[int, int]
"""(chunk, layer)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateShape:
    """What a message holds; the same for all layers and chunks of a video."""

    conv_BCW: tuple[int, ...]
    conv_dtype: torch.dtype
    ssm_BHPN: tuple[int, ...]
    ssm_dtype: torch.dtype

    @classmethod
    def of(cls, config: MixerConfig, dtype: torch.dtype) -> StateShape:
        """Of a mixer whose stream is of type `dtype`."""
        return cls(
            conv_BCW=(1, config.conv_dim, config.d_conv),
            conv_dtype=dtype,
            ssm_BHPN=(1, config.num_heads, config.headdim, config.d_state),
            ssm_dtype=torch.promote_types(dtype, torch.float32),
        )

    @property
    def ssm_bytes(self) -> int:
        return torch.Size(self.ssm_BHPN).numel() * self.ssm_dtype.itemsize

    @property
    def size_bytes(self) -> int:
        return self.ssm_bytes + torch.Size(self.conv_BCW).numel() * self.conv_dtype.itemsize

    def pack(self, state: MixerState) -> Tensor:
        """uint8[size_bytes]"""
        shapes = (tuple(state.ssm_BHPN.shape), tuple(state.conv_BCW.shape))
        assert shapes == (self.ssm_BHPN, self.conv_BCW), (shapes, self)
        parts = (state.ssm_BHPN.to(self.ssm_dtype), state.conv_BCW.to(self.conv_dtype))
        return torch.cat([part.detach().contiguous().view(-1).view(torch.uint8) for part in parts])

    def unpack(self, message: Tensor) -> MixerState:
        ssm, conv = message[: self.ssm_bytes], message[self.ssm_bytes :]
        return MixerState(
            conv_BCW=conv.view(self.conv_dtype).view(self.conv_BCW),
            ssm_BHPN=ssm.view(self.ssm_dtype).view(self.ssm_BHPN),
        )


class RankCarry:
    """The walk's `Carry` at one rank of a ring: takes what one neighbour sends and gives to the other.

    waited_s: seconds in which this rank had nothing to do but wait for states (of its host, on a GPU).
    """

    def __init__(
        self, shape: StateShape, context: ContextGroup, expected: Iterable[_Place], *, backward: bool = False
    ) -> None:
        """expected: (chunk, layer) of everything that will be taken, in the order in which it is sent."""
        self._shape, self._device = shape, context.device
        ahead, behind = (context.next, context.to_next), (context.previous, context.from_previous)
        self._source, self._target = (ahead, behind) if backward else (behind, ahead)
        self._expected = iter(expected)
        self._posted: deque[tuple[_Place, Tensor, Any]] = deque()
        self._sent: deque[tuple[Tensor, Any]] = deque()
        self.waited_s = 0.0
        self._post()

    @classmethod
    def forward(
        cls, shape: StateShape, context: ContextGroup, chunks: Sequence[Chunk], layers: Sequence[int]
    ) -> RankCarry:
        """For the forward walk over this rank's `chunks`. layers: those that have a state, in order."""
        return cls(shape, context, [(c.index, layer) for c in chunks if not c.begins_sample for layer in layers])

    @classmethod
    def backward(
        cls, shape: StateShape, context: ContextGroup, chunks: Sequence[Chunk], layers: Sequence[int]
    ) -> RankCarry:
        """For the backward walk over the same chunks and layers, from the last to the first."""
        continued = [c for c in reversed(chunks) if not c.ends_sample]
        expected = [(c.index, layer) for c in continued for layer in reversed(layers)]
        return cls(shape, context, expected, backward=True)

    def take(self, chunk: int, layer: int) -> MixerState:
        place, message, work = self._posted.popleft()
        assert place == (chunk, layer), f"the state of {place} comes next, not that of {(chunk, layer)}"
        self._post()
        started = time.perf_counter()
        work.wait()
        self.waited_s += time.perf_counter() - started
        return self._shape.unpack(message)

    def give(self, chunk: int, layer: int, state: MixerState) -> None:
        while self._sent and self._sent[0][1].is_completed():
            self._sent.popleft()
        message = self._shape.pack(state)
        self._sent.append((message, dist.isend(message, self._target[0], group=self._target[1])))

    def close(self) -> None:
        """Wait until all that was given is with its neighbour. At the end of a walk, by every rank of the group."""
        assert not self._posted, f"never taken: {[place for place, _, _ in self._posted]}"
        for _, work in self._sent:
            work.wait()
        self._sent.clear()

    def _post(self) -> None:
        while len(self._posted) < _POSTED:
            place = next(self._expected, None)
            if place is None:
                return
            message = torch.empty(self._shape.size_bytes, dtype=torch.uint8, device=self._device)
            self._posted.append((place, message, dist.irecv(message, self._source[0], group=self._source[1])))
