"""One batch's chunks over the ranks of a context group: the `Spread` of context parallelism.

Chunks are dealt round robin, so that the ranks form a wavefront: rank 1 runs a layer of chunk 1 as soon as rank 0 has
left that layer of chunk 0, one layer behind it, and rank 0 is done with its chunk before the last rank's first state of
the round comes back to it. Nobody waits but at the two ends, as long as there are as many layers as ranks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from vamba.ops.attention.partial import Groups, Parts, Reading
from vamba.parallel.context import ContextGroup
from vamba.parallel.merged_reading import MergedReading
from vamba.parallel.passing import RankCarry, StateShape
from vamba.streaming.chunks import Chunk, aligned
from vamba.streaming.walk import Carry, LocalCarry, layers_with_state, trained_states

ROUNDS = 4
"""Chunks that each rank gets of a video, or more, where it is long enough: what it waits for at the two ends is a part
of one chunk's time."""


class OverRanks:
    """Spread over `context`. scan_chunk: tokens of the scan's chunks, of which a chunk is a whole number.

    carries: those of the last batch, which know what was waited for.
    """

    def __init__(self, context: ContextGroup, scan_chunk: int) -> None:
        self._context, self._scan_chunk = context, scan_chunk
        self.carries: list[RankCarry] = []

    @property
    def least_tokens(self) -> int:
        """With more video tokens, every rank has a chunk. A smaller batch is not worth it: all ranks run it whole."""
        return (self._context.size - 1) * self._scan_chunk

    def chunk_tokens(self, num_tokens: int, most: int) -> int:
        rounds = max(ROUNDS, math.ceil(num_tokens / (most * self._context.size)))
        wanted = math.ceil(num_tokens / (rounds * self._context.size))  # as many for each rank
        return min(most, aligned(wanted, self._scan_chunk))

    def own(self, chunks: Sequence[Chunk]) -> tuple[Chunk, ...]:
        return tuple(chunk for chunk in chunks if self._context.owns(chunk.index))

    def carry(self, model: Any, chunks: Sequence[Chunk], *, backward: bool) -> Carry:
        layers = trained_states(model) if backward else layers_with_state(model)
        if not layers:
            return LocalCarry()
        mixer = model.model.hybrid_layers[layers[0]].vision_mixer.mixer
        shape = StateShape.of(mixer.config, mixer.in_proj.weight.dtype)
        make = RankCarry.backward if backward else RankCarry.forward
        carry = make(shape, self._context, chunks, layers)
        self.carries = [*(self.carries if backward else ()), carry]
        return carry

    def reading(self, parts: Parts, groups: Groups) -> Reading:
        return MergedReading(parts, groups, self._context.group)
