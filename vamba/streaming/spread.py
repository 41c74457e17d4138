"""Where the chunks of one batch run: all in this process, or dealt over ranks that share the video.

Streaming asks four things and is the same code otherwise: which chunks are this process's, how states travel between
chunks, how the text reads what all chunks left, and what a process without a chunk owes the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from vamba.ops.attention.partial import Groups, Parts, Reading
from vamba.streaming.chunks import Chunk
from vamba.streaming.walk import Carry, LocalCarry


class Spread(Protocol):
    """How a batch is spread."""

    def chunk_tokens(self, num_tokens: int, most: int) -> int:
        """Video tokens of a chunk, `most` or fewer, of a batch of `num_tokens`."""

    def own(self, chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
        """Those that run in this process."""

    def carry(self, model: Any, chunks: Sequence[Chunk], *, backward: bool) -> Carry:
        """How states (backward: their gradients) get to this process's `chunks` and on from them."""

    def reading(self, parts: Parts, groups: Groups) -> Reading:
        """What the text reads of a layer, of which this process holds `parts`."""


class Here:
    """All in this process."""

    def chunk_tokens(self, num_tokens: int, most: int) -> int:
        return most

    def own(self, chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
        return tuple(chunks)

    def carry(self, model: Any, chunks: Sequence[Chunk], *, backward: bool) -> Carry:
        return LocalCarry()

    def reading(self, parts: Parts, groups: Groups) -> Reading:
        return Reading(parts, groups)
