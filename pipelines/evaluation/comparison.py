"""Two finished evaluations of the same questions: by how much they differ, where, and on which questions.

    A, B ──require_comparable──> answers ──pair──> Pairs ──bootstrap by video──> differences, overall and by group
                                                     └──> wins and losses, with what was asked and what was shown

A difference is B - A. What a protocol leaves out of its numbers (questions without a published answer, empty replies
where it says so) is left out of the pairs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation.asked import AskedQuestion, read_asked
from pipelines.evaluation.paired import Pairs, difference, macro_interval, pair, wins_and_losses
from pipelines.evaluation.protocols.recipe import Scoring
from pipelines.evaluation.references import find_pair
from pipelines.evaluation.result import ANSWERS_NAME, EvaluationResult
from pipelines.evaluation.results import Answer, read_answers


class NothingToCompareError(ValueError):
    """Two evaluations without a question that both answered."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One of the two. overall: as its protocol counts it, of all its answers, None where there are none.

    num_alone: questions that it answered and the other did not. num_unparsed: answers without a letter.
    """

    name: str
    model: str
    model_digest: str
    directory: str
    overall: float | None
    coverage: float
    num_unparsed: int
    num_alone: int
    subset: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupDifference:
    """B - A on the pairs of a group. low, high: its interval, None where fewer than two videos leave nothing to draw.

    name: "micro", "macro", or GROUPING/VALUE. wins: pairs that B alone has right; losses: that A alone has right.
    """

    name: str
    num_questions: int
    num_videos: int
    accuracy_a: float
    accuracy_b: float
    difference: float
    low: float | None
    high: float | None
    wins: int
    losses: int

    @property
    def better(self) -> str:
        """ "A" or "B" where the whole interval lies on one side of zero, else ""."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return ""
        return "B" if self.low > 0 else "A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """A question that one of the two has right. asked: its text and where its frames are, None where it is not known.

    raw_a, raw_b: what was said. answer: the right letter. is_win: B has it right.
    """

    question: str
    video: str
    category: str
    duration_s: float
    answer: str
    prediction_a: str
    prediction_b: str
    raw_a: str
    raw_b: str
    is_win: bool
    asked: AskedQuestion | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationComparison:
    """confidence: of the intervals, both ends together. headline: which of micro and macro the protocol calls its result.

    micro: of all pairs; macro: the mean over the groups that the protocol averages. groups: of every grouping.
    num_both: pairs that both have right; num_neither: that none has.
    """  # noqa: E501

    protocol: str
    dataset: str
    split: str
    control: str
    settings: Mapping[str, object]
    manifest_digest: str
    chance: float | None
    confidence: float
    a: Side
    b: Side
    headline: str
    micro: GroupDifference
    macro: GroupDifference
    groups: tuple[GroupDifference, ...]
    num_both: int
    num_neither: int
    wins: tuple[Changed, ...]
    losses: tuple[Changed, ...]

    @property
    def overall(self) -> GroupDifference:
        """What the protocol calls its result."""
        return self.macro if self.headline == "macro" else self.micro


def compare_evaluations(first: str, second: str, *, confidence: float = 0.95) -> EvaluationComparison:
    """Compare two evaluations, each named as `find_pair` takes it.

    Raises EvaluationNotFoundError, IncomparableError, or NothingToCompareError.
    """
    if not 0 < confidence < 1:
        raise ValueError(f"--confidence is {confidence}; it must lie between 0 and 1, as 0.95 does.")
    a, b = find_pair(first, second)
    answers_a, answers_b = counted_answers(a), counted_answers(b)
    pairs = pair(answers_a.values(), answers_b.values())
    if not pairs.questions:
        raise NothingToCompareError(
            f"The evaluations {a.name!r} and {b.name!r} have no question in common that both answered "
            f"({len(answers_a)} and {len(answers_b)} answers)."
        )
    members = members_of([answers_a[key] for key in pairs.questions])
    wins, losses = wins_and_losses(pairs)
    asked = {**read_asked(Path(b.directory)), **read_asked(Path(a.directory))}

    def changed(keys: Sequence[str], *, is_win: bool) -> tuple[Changed, ...]:
        return tuple(_changed(answers_a[key], answers_b[key], asked.get(key), is_win=is_win) for key in keys)

    return EvaluationComparison(
        protocol=a.protocol,
        dataset=a.dataset,
        split=a.split,
        control=a.control,
        settings=a.settings,
        manifest_digest=a.manifest_digest,
        chance=a.chance,
        confidence=confidence,
        a=_side(a, pairs.num_only_a),
        b=_side(b, pairs.num_only_b),
        headline=a.scoring.headline,
        micro=micro_difference("micro", pairs, confidence),
        macro=macro_difference(pairs, members, a.scoring, confidence),
        groups=tuple(
            micro_difference(f"{group}/{value}", pairs.at(own), confidence)
            for group, values in members.items()
            for value, own in sorted(values.items())
        ),
        num_both=int((pairs.correct_a & pairs.correct_b).sum()),
        num_neither=int((~pairs.correct_a & ~pairs.correct_b).sum()),
        wins=changed(wins, is_win=True),
        losses=changed(losses, is_win=False),
    )


def counted_answers(result: EvaluationResult) -> dict[str, Answer]:
    """What the protocol counts, by question. Raises ValueError for one that was answered twice."""
    found: dict[str, Answer] = {}
    for answer in read_answers(Path(result.directory) / ANSWERS_NAME):
        if not answer.answer or not (answer.raw or result.scoring.counts_empty):
            continue
        if answer.question in found:
            raise ValueError(
                f"Question {answer.question!r} was answered twice in {result.directory}: there is no telling which one "
                "counts. Evaluate again under another --name."
            )
        found[answer.question] = answer
    return found


def members_of(answers: Sequence[Answer]) -> dict[str, dict[str, list[int]]]:
    """Indices of the answers by grouping and value; a question counts in each of its values."""
    found: dict[str, dict[str, list[int]]] = {}
    for index, answer in enumerate(answers):
        for group, values in {"category": (answer.category,), **answer.groups}.items():
            for value in values:
                found.setdefault(group, {}).setdefault(value, []).append(index)
    return found


def micro_difference(name: str, pairs: Pairs, confidence: float) -> GroupDifference:
    """Of all pairs. confidence: of both ends together."""
    found = difference(pairs, confidence=_each_end(confidence))
    return GroupDifference(
        name=name,
        num_questions=found.num_questions,
        num_videos=found.num_videos,
        accuracy_a=found.accuracy_a,
        accuracy_b=found.accuracy_b,
        difference=found.difference,
        low=found.low,
        high=found.high,
        wins=found.wins,
        losses=found.losses,
    )


def macro_difference(
    pairs: Pairs, members: Mapping[str, Mapping[str, Sequence[int]]], scoring: Scoring, confidence: float
) -> GroupDifference:
    """The mean over groups; one that the protocol counts and no pair is in stands there as 0. confidence: as above."""
    groups = list(members.get(scoring.macro_group, members["category"]).values())
    absent = [name for name in scoring.macro_of if name not in members.get(scoring.macro_group, {})]
    total = len(groups) + len(absent)
    means = [(pairs.correct_a[list(own)].mean(), pairs.correct_b[list(own)].mean()) for own in groups]
    accuracy_a, accuracy_b = (float(sum(side)) / total for side in zip(*means, strict=True))
    low, high = macro_interval(pairs, groups, confidence=_each_end(confidence))
    share = len(groups) / total
    whole = micro_difference("macro", pairs, confidence)
    return GroupDifference(
        name="macro",
        num_questions=whole.num_questions,
        num_videos=whole.num_videos,
        accuracy_a=accuracy_a,
        accuracy_b=accuracy_b,
        difference=accuracy_b - accuracy_a,
        low=None if low is None else low * share,
        high=None if high is None else high * share,
        wins=whole.wins,
        losses=whole.losses,
    )


def _each_end(confidence: float) -> float:
    """Of one end by itself, which is what `paired` takes."""
    return (1 + confidence) / 2


def _side(result: EvaluationResult, num_alone: int) -> Side:
    return Side(
        name=result.name,
        model=result.model,
        model_digest=result.model_digest,
        directory=result.directory,
        overall=result.overall.accuracy if result.overall else None,
        coverage=result.coverage,
        num_unparsed=result.overall.num_unparsed if result.overall else 0,
        num_alone=num_alone,
        subset=result.subset,
    )


def _changed(a: Answer, b: Answer, asked: AskedQuestion | None, *, is_win: bool) -> Changed:
    return Changed(
        question=a.question,
        video=a.video,
        category=a.category,
        duration_s=a.duration_s,
        answer=a.answer,
        prediction_a=a.prediction,
        prediction_b=b.prediction,
        raw_a=a.raw,
        raw_b=b.raw,
        is_win=is_win,
        asked=asked,
    )
