"""Streamed training learns what states must carry over 32 chunk bounds; with detached states nothing is learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.needle import ANSWERS, Lesson, learn

LESSON = Lesson(chunk_tokens=4, seed=4, num_steps=60, learning_rate=6e-2)


@pytest.mark.slow
def test_only_exact_states_teach_the_needle() -> None:
    assert LESSON.bounds >= 32
    exact, detached = (list(learn(replace(LESSON, detached=detached)))[-1] for detached in (False, True))
    assert exact[1] >= 0.95
    assert detached[1] <= 1 / ANSWERS + 0.1, "near chance"
