"""The order of work that the measured waiting is held against."""

from __future__ import annotations

import pytest

from benchmarks.context_order import waiting_shares


def test_one_rank_never_waits() -> None:
    assert waiting_shares(num_chunks=5, ranks=1, layers=3) == [0.0]


def test_ranks_wait_for_a_part_of_one_chunk_at_the_two_ends_and_not_between() -> None:
    for rounds in (1, 2, 10):
        shares = waiting_shares(num_chunks=4 * rounds, ranks=4, layers=8)
        assert shares == pytest.approx([3 / (8 * rounds + 3)] * 4)


def test_more_ranks_than_layers_wait_in_every_round() -> None:
    assert min(waiting_shares(num_chunks=40, ranks=4, layers=2)) > 0.45
