"""How a packed video is cut: into chunks of tokens for the layers, and into whole frame pairs for the vision tower.

    cu_seqlens of the samples ── cut ──> chunks of `chunk_tokens` tokens, the last one shorter
    grids of the media        ── covering ──> the frame pairs that make the tokens of a chunk, and what of them is too much

Chunks are counted from the start of the packed sequence, as the scan counts its own. Any size gives the same result up to
rounding; with a multiple of the mixer's `chunk_size` (`aligned`) it is bitwise that of one pass. Several small samples
may share a chunk: `seq_idx` restarts the mixers inside it, and the state that comes in belongs to the first of them. The
tower attends inside a frame pair, so pairs are never cut; a pair is seldom a whole number of chunks (299 tokens at
640x360), so a pair may lie in two.
"""  # noqa: E501

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vamba.data.batch import Grid


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Tokens [start, stop) of a packed video sequence.

    index: its place among all chunks of the sequence. begins_sample: its first token is the first of a sample, so no
    state comes in; otherwise the state of the chunk before does. ends_sample: its last token is the last of a sample,
    so no state goes on. num_samples: that have tokens in it.
    """

    index: int
    start: int
    stop: int
    begins_sample: bool
    ends_sample: bool
    num_samples: int

    @property
    def num_tokens(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True, slots=True, kw_only=True)
class Frames:
    """Whole frame pairs that make the tokens of a span.

    grids: of each item's part, in order. items: per part, which of the media it is of. pairs_before: per part, frame
    pairs of its item that come before it.
    rows: first and end row of the packed patches. lead, trail: tokens they make before and after the span.
    """

    grids: tuple[Grid, ...]
    items: tuple[int, ...]
    pairs_before: tuple[int, ...]
    rows: tuple[int, int]
    lead: int
    trail: int


def cut(cu_seqlens: Sequence[int], chunk_tokens: int) -> tuple[Chunk, ...]:
    """The chunks of samples that begin at the given offsets; the last offset is the end of the sequence.

    Raises ValueError for a chunk of no tokens.
    """
    if chunk_tokens < 1:
        raise ValueError(f"a chunk of {chunk_tokens} video tokens was asked for; use 1 or more")
    bounds = set(cu_seqlens)
    chunks = []
    for index, start in enumerate(range(0, cu_seqlens[-1], chunk_tokens)):
        stop = min(start + chunk_tokens, cu_seqlens[-1])
        chunks.append(
            Chunk(
                index=index,
                start=start,
                stop=stop,
                begins_sample=start in bounds,
                ends_sample=stop in bounds,
                num_samples=1 + sum(start < bound < stop for bound in bounds),
            )
        )
    return tuple(chunks)


def aligned(chunk_tokens: int, scan_chunk: int) -> int:
    """The nearest size from `chunk_tokens` up that is a whole number of the scan's chunks."""
    return math.ceil(chunk_tokens / scan_chunk) * scan_chunk


def covering(grids: Sequence[Grid], start: int, stop: int, *, merge_size: int) -> Frames:
    """The frame pairs of the packed media that make tokens [start, stop), a span that is not empty."""
    assert 0 <= start < stop
    cell = merge_size**2
    parts: list[Grid] = []
    items: list[int] = []
    before: list[int] = []
    first_row = end_row = first_token = end_token = item_token = 0
    for item, (t, h, w) in enumerate(grids):
        tokens = h * w // cell
        first, end = max(0, start - item_token) // tokens, min(t, -(-(stop - item_token) // tokens))
        if first < end:
            if not parts:
                first_token, first_row = item_token + first * tokens, (item_token + first * tokens) * cell
            end_token, end_row = item_token + end * tokens, (item_token + end * tokens) * cell
            parts.append((end - first, h, w))
            items.append(item)
            before.append(first)
        item_token += t * tokens
    assert item_token >= stop, "the span reaches beyond the media"
    return Frames(
        grids=tuple(parts),
        items=tuple(items),
        pairs_before=tuple(before),
        rows=(first_row, end_row),
        lead=start - first_token,
        trail=end_token - stop,
    )
