"""Streamed training learns what states must carry over 32 chunk bounds; with detached states nothing is learned."""

from __future__ import annotations

import pytest

from benchmarks.needle import ANSWERS, Lesson, learn

CHUNK_TOKENS, NUM_STEPS = 4, 40


@pytest.mark.slow
def test_only_exact_states_teach_the_needle() -> None:
    lessons = [Lesson(chunk_tokens=CHUNK_TOKENS, detached=detached, num_steps=NUM_STEPS) for detached in (False, True)]
    assert lessons[0].bounds >= 32
    exact, detached = ([accuracy for _, accuracy in learn(lesson)][-1] for lesson in lessons)
    assert exact >= 0.95
    assert detached <= 1 / ANSWERS + 0.15, "near chance"
