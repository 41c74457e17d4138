"""No worse than the champion: the same questions asked of both, the drop bounded with confidence, in every category.

Counted is what the protocol counts, and overall is its own mean; a question counts in each of its categories.
"""

from __future__ import annotations

from collections.abc import Iterator

from pipelines.evaluation.comparison import (
    GroupDifference,
    counted_answers,
    macro_difference,
    members_of,
    micro_difference,
)
from pipelines.evaluation.paired import pair
from pipelines.evaluation.result import EvaluationResult
from pipelines.registry.candidates import Candidate
from pipelines.registry.checks import Check
from pipelines.registry.config import GateConfig, NoWorse
from pipelines.registry.evidence import Evidence


def champion_checks(candidate: Candidate, evidence: Evidence, rule: NoWorse, config: GateConfig) -> Iterator[Check]:
    """One check overall and one a category, of each benchmark; one alone where there is nothing to compare with."""
    name = f"no worse than {rule.than}"
    required = f"a drop of at most {rule.max_drop:.1%} with {rule.confidence:.0%} confidence"
    champion = evidence.champion
    if champion is None or champion.version == candidate.version:
        found = f"{candidate.name} has no {rule.than} yet" if champion is None else f"it is the {rule.than}"
        yield Check(name=name, passed=True, found=found, required=required)
        return
    for benchmark in rule.benchmarks or evidence.benchmarks(config)[:1]:
        mine = evidence.main(benchmark)
        theirs = evidence.counterpart(mine) if mine is not None else None
        prefix = f"{name} ({benchmark})" if len(rule.benchmarks) > 1 else name
        if mine is None or theirs is None:
            lacks = candidate.label if mine is None else champion.label
            who = candidate.label if mine is None else f"{champion.label}, which is the {rule.than},"
            yield Check(
                name=prefix,
                passed=False,
                found=f"{who} was not evaluated on {'these questions' if mine else benchmark or 'anything'}",
                required=f"{required}: vamba evaluate --model models:/{lacks} first",
            )
            continue
        yield from _compare(prefix, required, mine, theirs, rule)


def _compare(
    name: str, required: str, mine: EvaluationResult, theirs: EvaluationResult, rule: NoWorse
) -> Iterator[Check]:
    try:
        answers, before = counted_answers(mine), counted_answers(theirs)
        pairs = pair(before.values(), answers.values())
    except (OSError, ValueError) as error:
        yield Check(name=name, passed=False, found=str(error), required=required)
        return
    if not pairs.questions:
        yield Check(name=name, passed=False, found="no question that both answered", required=required)
        return
    both_ends = 2 * rule.confidence - 1  # the rule's is of the lower end alone
    members = members_of([answers[key] for key in pairs.questions])
    if mine.scoring.headline == "macro":
        yield _bounded(name, required, macro_difference(pairs, members, mine.scoring, both_ends), rule)
    else:
        yield _bounded(name, required, micro_difference("micro", pairs, both_ends), rule)
    categories = members["category"]
    for category in rule.categories or sorted(categories):
        if category not in categories:
            known = ", ".join(sorted(categories))
            yield Check(name=f"{name}: {category}", passed=False, found=f"no such category (there is {known})",
                        required=required)  # fmt: skip
        else:
            measured = micro_difference(category, pairs.at(categories[category]), both_ends)
            yield _bounded(f"{name}: {category}", required, measured, rule)


def _bounded(name: str, required: str, measured: GroupDifference, rule: NoWorse) -> Check:
    counts = f"{measured.num_questions} questions about {measured.num_videos} videos"
    change = f"{measured.accuracy_a:.1%} to {measured.accuracy_b:.1%}"
    outcome = f"{measured.wins} won, {measured.losses} lost"
    if measured.low is None or measured.num_videos < rule.min_videos or measured.num_questions < rule.min_questions:
        needed = f"{rule.min_questions} and {rule.min_videos} are needed"
        return Check(name=name, passed=False, found=f"{change} on {counts}: too few to tell ({needed})",
                     required=required)  # fmt: skip
    return Check(
        name=name,
        # A hair's breadth for the rounding of means.
        passed=measured.low >= -rule.max_drop - 1e-12,
        found=f"{change}, at worst {measured.low:+.1%}, on {counts}; {outcome}",
        required=required,
    )
