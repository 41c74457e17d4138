"""Paired differences: pairing, the interval against what is known of it, and how often it holds the truth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from pipelines.evaluation.paired import (
    difference,
    expanded_tail,
    pair,
    student_t_cdf,
    student_t_quantile,
    wins_and_losses,
)


@dataclass(frozen=True)
class Said:
    question: str
    video: str
    category: str
    correct: bool


def said(correct: list[int], *, per_video: int = 2, category: str = "c") -> list[Said]:
    return [Said(f"q{i}", f"v{i // per_video}", category, bool(right)) for i, right in enumerate(correct)]


def test_only_what_both_were_asked_is_paired() -> None:
    pairs = pair(said([1, 0, 1, 0]), said([1, 1, 0]))
    assert pairs.questions == ("q0", "q1", "q2") and (pairs.num_only_a, pairs.num_only_b) == (1, 0)
    assert wins_and_losses(pairs) == (["q1"], ["q2"])
    found = difference(pairs)
    assert (found.wins, found.losses, found.num_questions, found.num_videos) == (1, 1, 3, 2)


def test_other_questions_under_the_same_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="not the same questions"):
        pair(said([1, 0]), said([1, 0], category="other"))
    with pytest.raises(ValueError, match="twice"):
        pair([*said([1]), *said([1])], said([1]))


def test_equal_answers_differ_by_nothing() -> None:
    found = difference(pair(said([1, 0] * 20), said([1, 0] * 20)))
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)


def test_swapping_the_models_turns_the_difference_around() -> None:
    rng = np.random.default_rng(1)
    a, b = (said(list(rng.integers(0, 2, 300)), per_video=5) for _ in range(2))
    there, back = difference(pair(a, b)), difference(pair(b, a))
    assert there.low is not None and back.high is not None
    assert there.difference == -back.difference and there.low == pytest.approx(-back.high)
    assert there == difference(pair(a, b)), "equal input, equal numbers"


def test_questions_of_one_video_count_once_together() -> None:
    """Ten copies of each question about the same video say no more than one."""
    rng = np.random.default_rng(2)
    gains = rng.integers(0, 2, 40)
    once = difference(pair(said([0] * 40, per_video=1), said(list(gains), per_video=1)))
    tenfold = difference(pair(said([0] * 400, per_video=10), said(list(np.repeat(gains, 10)), per_video=10)))
    assert tenfold.low == pytest.approx(once.low) and tenfold.high == pytest.approx(once.high)


def test_one_video_has_no_interval() -> None:
    found = difference(pair(said([0, 0], per_video=2), said([1, 1], per_video=2)))
    assert found.difference == 1.0 and found.low is None and found.high is None


@pytest.mark.parametrize(
    ("degrees", "value"), [(1, 6.3138), (2, 2.9200), (3, 2.3534), (4, 2.1318), (9, 1.8331), (30, 1.6973)]
)
def test_students_t_is_that_of_the_tables(degrees: int, value: float) -> None:
    assert student_t_quantile(0.95, degrees) == pytest.approx(value, abs=1e-4)
    assert student_t_cdf(value, degrees) == pytest.approx(0.95, abs=1e-4)
    assert student_t_cdf(-value, degrees) == pytest.approx(0.05, abs=1e-4)


def test_the_percentile_moves_out_for_few_videos_and_not_for_many() -> None:
    tails = [expanded_tail(0.05, videos) for videos in (3, 5, 10, 100, 10_000)]
    assert tails == sorted(tails) and tails[0] < 0.001 and tails[-1] == pytest.approx(0.05, abs=1e-4)


@pytest.mark.parametrize("num_videos", [8, 40])
def test_the_low_end_is_too_high_as_rarely_as_it_says(num_videos: int) -> None:
    """500 worlds in which B is no better; B looks better with 95 % confidence in 5 % of them."""
    rng = np.random.default_rng(num_videos)
    misses = 0
    for _ in range(500):
        lean = rng.normal(0, 0.2, num_videos)
        a, b = [], []
        for video in range(num_videos):
            for index in range(rng.integers(2, 9)):
                key = f"{video}-{index}"
                draw = rng.random()
                a.append(Said(key, str(video), "c", draw < 0.3 - lean[video] / 2))
                b.append(Said(key, str(video), "c", draw > 0.7 - lean[video] / 2))
        found = difference(pair(a, b), num_draws=1000)
        assert found.low is not None
        misses += found.low > 0
    assert 0.02 <= misses / 500 <= 0.085
