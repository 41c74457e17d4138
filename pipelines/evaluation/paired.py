"""Two models on the same questions: the difference of their accuracies, and how sure one may be of it.

    answers of A, answers of B ──pair──> Pairs (what both were asked) ──difference──> Difference

The difference is B - A. Its interval is a bootstrap over videos, not questions: questions about one video are right or
wrong together. Drawing V videos again and again shows a spread that is too small by (V - 1) / V, and a percentile is
too tight by as much as Student's t is wider than the normal; both are made up for by reading percentiles further out
(the expanded percentile interval of Hesterberg, arXiv 1411.5279). numpy only; equal input gives equal numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

NUM_DRAWS = 10_000
_DRAWS_AT_ONCE = 500
_SEED = 0


class AnsweredQuestion(Protocol):
    """What a comparison reads of an answer. question: its key, the same for both models."""

    @property
    def question(self) -> str: ...
    @property
    def video(self) -> str: ...
    @property
    def category(self) -> str: ...
    @property
    def correct(self) -> bool: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """The questions that both models answered, in the order of their keys: four columns of equal length.

    num_only_a, num_only_b: questions that only one of them answered; they are left out.
    """

    questions: tuple[str, ...]
    videos: tuple[str, ...]
    categories: tuple[str, ...]
    correct_a: NDArray[np.bool_]
    correct_b: NDArray[np.bool_]
    num_only_a: int
    num_only_b: int

    def at(self, kept: Sequence[int]) -> Pairs:
        """Those with these indices."""
        return Pairs(
            questions=tuple(self.questions[index] for index in kept),
            videos=tuple(self.videos[index] for index in kept),
            categories=tuple(self.categories[index] for index in kept),
            correct_a=self.correct_a[list(kept)],
            correct_b=self.correct_b[list(kept)],
            num_only_a=0,
            num_only_b=0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """B - A in accuracy. low, high: the interval's ends, None where fewer than two videos leave nothing to draw.

    confidence: of each end by itself, so that `low` may be read alone: B is worse than A by more than -low with a
    probability of 1 - confidence at most. wins: questions that B alone has right; losses: that A alone has right.
    """

    num_questions: int
    num_videos: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float | None
    high: float | None
    confidence: float
    wins: int
    losses: int


def pair(answers_a: Iterable[AnsweredQuestion], answers_b: Iterable[AnsweredQuestion]) -> Pairs:
    """Match answers by the key of the question.

    Raises ValueError where a question stands twice in one of them, or is about another video or of another category.
    """
    by_key_a, by_key_b = _by_key(answers_a), _by_key(answers_b)
    keys = sorted(by_key_a.keys() & by_key_b.keys())
    for key in keys:
        a, b = by_key_a[key], by_key_b[key]
        if (a.video, a.category) != (b.video, b.category):
            raise ValueError(
                f"Question {key!r} is about {a.video!r} ({a.category}) in one evaluation and about {b.video!r} "
                f"({b.category}) in the other: these are not the same questions, so there is nothing to compare."
            )
    return Pairs(
        questions=tuple(keys),
        videos=tuple(by_key_a[key].video for key in keys),
        categories=tuple(by_key_a[key].category for key in keys),
        correct_a=np.array([by_key_a[key].correct for key in keys], dtype=bool),
        correct_b=np.array([by_key_b[key].correct for key in keys], dtype=bool),
        num_only_a=len(by_key_a) - len(keys),
        num_only_b=len(by_key_b) - len(keys),
    )


def difference(pairs: Pairs, *, confidence: float = 0.95, num_draws: int = NUM_DRAWS) -> Difference:
    """Compare on at least one pair. confidence: of each end of the interval, above 0.5 and below 1."""
    assert pairs.questions and 0.5 < confidence < 1
    a, b = pairs.correct_a, pairs.correct_b
    gains = b.astype(np.float64) - a.astype(np.float64)
    names, video = np.unique(np.array(pairs.videos), return_inverse=True)
    low, high = _interval(
        np.bincount(video, weights=gains).astype(np.float64)[:, None],
        np.bincount(video).astype(np.float64)[:, None],
        confidence,
        num_draws,
    )
    return Difference(
        num_questions=len(a),
        num_videos=len(names),
        accuracy_a=float(a.mean()),
        accuracy_b=float(b.mean()),
        difference=float(gains.mean()),
        low=low,
        high=high,
        confidence=confidence,
        wins=int((b & ~a).sum()),
        losses=int((a & ~b).sum()),
    )


def macro_interval(
    pairs: Pairs, members: Sequence[Sequence[int]], *, confidence: float = 0.95, num_draws: int = NUM_DRAWS
) -> tuple[float | None, float | None]:
    """Ends of the interval of the mean, over groups, of the groups' differences; None for fewer than two videos.

    members: indices of each group's pairs, none of them empty. A group none of whose videos was drawn is left out of
    that draw's mean.
    """
    gains = pairs.correct_b.astype(np.float64) - pairs.correct_a.astype(np.float64)
    names, video = np.unique(np.array(pairs.videos), return_inverse=True)
    size = len(names)
    gains_VG, counts_VG = (
        np.stack([np.bincount(video[list(own)], weights=values[list(own)], minlength=size) for own in members], axis=1)
        for values in (gains, np.ones_like(gains))
    )
    some = counts_VG.sum(axis=1) > 0
    return _interval(gains_VG[some], counts_VG[some], confidence, num_draws)


def _by_key(answers: Iterable[AnsweredQuestion]) -> dict[str, AnsweredQuestion]:
    found: dict[str, AnsweredQuestion] = {}
    for answer in answers:
        if answer.question in found:
            raise ValueError(f"Question {answer.question!r} was answered twice: there is no telling which one counts.")
        found[answer.question] = answer
    return found


def _interval(
    gains_VG: NDArray[np.float64], counts_VG: NDArray[np.float64], confidence: float, num_draws: int
) -> tuple[float | None, float | None]:
    """Ends of the interval of the mean over G groups of sum(gains) / sum(counts), V videos drawn with replacement."""
    num_videos = len(counts_VG)
    if num_videos < 2:
        return None, None
    rng = np.random.default_rng([_SEED, num_videos])
    shares = np.full(num_videos, 1 / num_videos)
    means: list[NDArray[np.float64]] = []
    for start in range(0, num_draws, _DRAWS_AT_ONCE):
        times_DV = rng.multinomial(num_videos, shares, size=min(_DRAWS_AT_ONCE, num_draws - start))
        gains_DG, counts_DG = times_DV @ gains_VG, times_DV @ counts_VG
        shares_DG = np.divide(gains_DG, counts_DG, out=np.full_like(gains_DG, np.nan), where=counts_DG > 0)
        means.append(np.nanmean(shares_DG, axis=1))
    tail = expanded_tail(1 - confidence, num_videos)
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return float(low), float(high)


def expanded_tail(tail: float, num_clusters: int) -> float:
    """The percentile to read for a tail of that probability: further out the fewer clusters there are."""
    stretch = math.sqrt(num_clusters / (num_clusters - 1))
    return NormalDist().cdf(stretch * student_t_quantile(tail, num_clusters - 1))


def student_t_quantile(probability: float, degrees: int) -> float:
    """The inverse of `student_t_cdf`, by bisection."""
    low, high = -1e7, 1e7
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if student_t_cdf(middle, degrees) < probability else (low, middle)
    return (low + high) / 2


def student_t_cdf(value: float, degrees: int) -> float:
    """P(T <= value) for Student's t, whole degrees of freedom (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(value, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    if degrees == 1:
        return 0.5 + angle / math.pi
    term = total = cosine if degrees % 2 else 1.0
    for step in range(3 if degrees % 2 else 2, degrees, 2):
        term *= cosine**2 * (step - 1) / step
        total += term
    inside = 2 / math.pi * (angle + sine * total) if degrees % 2 else sine * total
    return 0.5 + inside / 2


def wins_and_losses(pairs: Pairs) -> tuple[Sequence[str], Sequence[str]]:
    """Keys of the questions that B alone has right, and of those that A alone has right."""
    wins = [key for key, a, b in zip(pairs.questions, pairs.correct_a, pairs.correct_b, strict=True) if b and not a]
    losses = [key for key, a, b in zip(pairs.questions, pairs.correct_a, pairs.correct_b, strict=True) if a and not b]
    return wins, losses
