"""Where a packed video is cut: every token in one chunk, every pair whole."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vamba.data.batch import Grid
from vamba.streaming.chunks import aligned, covering, cut

GRIDS: tuple[Grid, ...] = ((5, 4, 6), (1, 4, 4), (2, 2, 4), (3, 6, 4))
"""6, 4, 2 and 6 tokens a pair: 30, 4, 4 and 18 tokens."""


@pytest.mark.parametrize("size", [1, 7, 8, 30, 31, 100])
def test_chunks_tile_the_sequence_and_know_its_samples(size: int) -> None:
    bounds = [0, 30, 38, 56]
    sample_of = np.repeat([0, 1, 2], [30, 8, 18])
    chunks = cut(bounds, size)
    assert [token for chunk in chunks for token in range(chunk.start, chunk.stop)] == list(range(56))
    assert [chunk.index for chunk in chunks] == list(range(len(chunks)))
    for chunk in chunks:
        assert chunk.num_tokens == min(size, 56 - chunk.start)
        assert chunk.begins_sample == (chunk.start in bounds)
        assert chunk.ends_sample == (chunk.stop in bounds)
        assert chunk.num_samples == len(set(sample_of[chunk.start : chunk.stop]))


def test_a_chunk_has_tokens() -> None:
    with pytest.raises(ValueError, match="chunk of 0 video tokens"):
        cut([0, 5], 0)


def test_sizes_are_rounded_up_to_the_scans_chunks() -> None:
    assert [aligned(size, 256) for size in (1, 256, 257, 4864)] == [256, 256, 512, 4864]


def test_the_pairs_of_a_span_are_whole_and_make_its_tokens() -> None:
    pair_of = np.concatenate(
        [np.arange(t).repeat(h * w // 4) + 100 * item for item, (t, h, w) in enumerate(GRIDS)]
    )  # of each token
    for start in range(56):
        for stop in range(start + 1, 57):
            frames = covering(GRIDS, start, stop, merge_size=2)
            first, end = start - frames.lead, stop + frames.trail
            assert frames.rows == (4 * first, 4 * end)
            assert sum(math.prod(grid) for grid in frames.grids) == 4 * (end - first)
            assert first == 0 or pair_of[first] != pair_of[first - 1]
            assert end == 56 or pair_of[end] != pair_of[end - 1]
            assert set(pair_of[first:end]) == set(pair_of[start:stop])
            assert frames.pairs_before[0] == pair_of[start] % 100
            assert list(frames.items) == sorted(set(pair_of[start:stop] // 100))
