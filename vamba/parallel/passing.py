"""States on their way between the ranks that share a video: sent when a layer is done, awaited when one begins.

    forward walk     rank of chunk c   ── state after layer l ──>     rank of chunk c + 1
    backward walk    rank of chunk c   ── gradient of its start ──>   rank of chunk c - 1

Both ends know the chunks, so both know which messages there are and in which order: that of the sender's work. Receives
are posted ahead of their use, so that a message travels while something else is computed; a send keeps its buffer until
it is through. A message is one run of bytes, the convolution's inputs and then the scan's state.

Nothing waits for a later message: a receive needs chunks before its own, and a send waits for none. So no order of
the ranks' work can lock, however many chunks a video has.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vamba.model.mixer import MixerState

Place = tuple[int, int]
"""(chunk, layer)"""

_POSTED = 2
"""Receives on their way at once: one that is awaited and one behind it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StateShape:
    """What a message holds; the same for all layers and chunks of a video."""

    conv: tuple[int, ...]
    conv_dtype: torch.dtype
    ssm: tuple[int, ...]
    ssm_dtype: torch.dtype

    @property
    def conv_bytes(self) -> int:
        return torch.Size(self.conv).numel() * self.conv_dtype.itemsize

    @property
    def size_bytes(self) -> int:
        return self.conv_bytes + torch.Size(self.ssm).numel() * self.ssm_dtype.itemsize

    def pack(self, state: MixerState) -> Tensor:
        """uint8[size_bytes]"""
        parts = (state.conv_BCW.to(self.conv_dtype), state.ssm_BHPN.to(self.ssm_dtype))
        assert (tuple(parts[0].shape), tuple(parts[1].shape)) == (self.conv, self.ssm)
        return torch.cat([part.detach().contiguous().view(-1).view(torch.uint8) for part in parts])

    def unpack(self, message: Tensor) -> MixerState:
        conv, ssm = message[: self.conv_bytes], message[self.conv_bytes :]
        # A copy where the second part does not begin on one of its own values.
        if self.conv_bytes % self.ssm_dtype.itemsize:
            ssm = ssm.clone()
        return MixerState(
            conv_BCW=conv.view(self.conv_dtype).view(self.conv), ssm_BHPN=ssm.view(self.ssm_dtype).view(self.ssm)
        )


class StatePasser:
    """One direction of a ring, at one rank: takes what a neighbour sends and gives to the other neighbour."""

    def __init__(
        self,
        shape: StateShape,
        device: torch.device,
        *,
        source: tuple[int, Any],
        target: tuple[int, Any],
        expected: Iterable[Place],
    ) -> None:
        """source, target: (global rank, group of two). expected: what will be taken, in the order it is sent."""
        self._shape, self._device = shape, device
        self._source, self._target = source, target
        self._expected = iter(expected)
        self._posted: deque[tuple[Place, Tensor, Any]] = deque()
        self._sent: deque[tuple[Tensor, Any]] = deque()
        self.waited_s = 0.0
        self._post()

    def take(self, place: Place) -> MixerState:
        """What was sent for `place`; waits until it is here."""
        expected, message, work = self._posted.popleft()
        assert expected == place, f"expected the state of {expected}, asked for {place}"
        self._post()
        started = time.perf_counter()
        work.wait()
        self.waited_s += time.perf_counter() - started
        return self._shape.unpack(message)

    def give(self, state: MixerState) -> None:
        """Send; returns at once."""
        message = self._shape.pack(state)
        while self._sent and self._sent[0][1].is_completed():
            self._sent.popleft()
        self._sent.append((message, dist.isend(message, self._target[0], group=self._target[1])))

    def close(self) -> None:
        """Wait until all that was given has left."""
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
            work = dist.irecv(message, self._source[0], group=self._source[1])
            self._posted.append((place, message, work))
