"""From answers to the numbers of a protocol: overall as it defines it, micro and macro, and every grouping.

micro is the share of right answers; macro the mean of the groups' shares. A question counts in each of its groups.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.evaluation.protocols.recipe import Recipe
from pipelines.evaluation.results import Answer, Tally, tally


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """overall: None where nothing could be scored; its accuracy is what the protocol calls the result.

    by_category: the main grouping. by_group: the others, by their names. micro, macro: None as overall.
    """

    overall: Tally | None
    by_category: Mapping[str, Tally]
    by_group: Mapping[str, Mapping[str, Tally]]
    micro: float | None
    macro: float | None


def score(answers: Sequence[Answer], recipe: Recipe) -> Scores:
    """Answers to questions without a published answer are left out, and empty ones where the protocol says so."""
    scored = [answer for answer in answers if answer.answer]
    counted = [answer for answer in scored if answer.raw or recipe.counts_empty]
    if not counted:
        return Scores(overall=None, by_category={}, by_group={}, micro=None, macro=None)
    names = dict.fromkeys(["category", *(name for answer in counted for name in answer.groups)])
    groups = {name: _members(counted, name) for name in names}
    whole = tally(counted)
    parts = groups[recipe.macro_group]
    parts = {**{name: [] for name in recipe.macro_of}, **parts}
    macro = sum(_accuracy(part) for part in parts.values()) / len(parts)
    overall = replace(whole, num_unparsed=sum(not answer.prediction for answer in scored))
    if recipe.headline == "macro":
        overall = replace(overall, accuracy=macro, stderr=_macro_stderr(list(parts.values())))
    tallies = {name: {value: tally(part) for value, part in sorted(found.items())} for name, found in groups.items()}
    return Scores(
        overall=overall,
        by_category=tallies.pop("category"),
        by_group=tallies,
        micro=whole.accuracy,
        macro=macro,
    )


def _members(answers: Sequence[Answer], group: str) -> dict[str, list[Answer]]:
    members: dict[str, list[Answer]] = {}
    for answer in answers:
        for value in answer.groups.get(group, (answer.category,) if group == "category" else ()):
            members.setdefault(value, []).append(answer)
    return members


def _accuracy(answers: Sequence[Answer]) -> float:
    return sum(answer.correct for answer in answers) / len(answers) if answers else 0.0


def _macro_stderr(parts: Sequence[Sequence[Answer]]) -> float | None:
    """Of the mean of the parts' shares, clustered by video; None where one video leaves nothing to cluster."""
    residuals: dict[str, float] = {}
    for part in parts:
        mean = _accuracy(part)
        for answer in part:
            weight = 1 / (len(part) * len(parts))
            residuals[answer.video] = residuals.get(answer.video, 0.0) + weight * (answer.correct - mean)
    return math.sqrt(sum(residual**2 for residual in residuals.values())) if len(residuals) > 1 else None
