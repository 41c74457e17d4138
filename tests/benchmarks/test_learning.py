"""Streamed training learns what states must carry over 32 chunk bounds; with detached states nothing is learned."""

from __future__ import annotations

from itertools import islice

import pytest

from benchmarks.needle import ANSWERS, FILM_TOKENS, Lesson, learn

ALL_IN_ONE, IN_33 = FILM_TOKENS, 4
"""Video tokens of a chunk."""
EVERY = 10


def lesson(chunk_tokens: int, *, detached: bool) -> Lesson:
    return Lesson(chunk_tokens=chunk_tokens, detached=detached, seed=11, num_steps=60)


def first_step_that_knows(lesson: Lesson) -> int:
    return next(step for step, accuracy in learn(lesson, every=EVERY, num_tests=64) if accuracy >= 0.95)


@pytest.mark.slow
def test_only_exact_states_teach_the_needle() -> None:
    exact, detached = lesson(IN_33, detached=False), lesson(IN_33, detached=True)
    assert exact.bounds >= 32
    as_long = first_step_that_knows(exact) // EVERY + 1
    accuracies = [accuracy for _, accuracy in islice(learn(detached, every=EVERY, num_tests=64), as_long)]
    assert max(accuracies) <= 1 / ANSWERS + 0.15, "near chance"


@pytest.mark.slow
def test_without_a_bound_detached_states_teach_it_too() -> None:
    exact, detached = (first_step_that_knows(lesson(ALL_IN_ONE, detached=kind)) for kind in (False, True))
    assert exact == detached
