"""No worse than the champion: what is compared, what is enough to tell, and what passes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation.protocols.recipe import Scoring
from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.results import Answer, AnswerLog, tally, tally_by
from pipelines.registry.candidates import Candidate
from pipelines.registry.checks import Check
from pipelines.registry.config import GateConfig, NoWorse, Threshold
from pipelines.registry.evidence import Evidence
from pipelines.registry.gate import judge
from pipelines.registry.gate_champion import champion_checks

GATE = GateConfig(no_worse=NoWorse(max_drop=0.05))


def evaluation(
    folder: Path, name: str, correct: Sequence[bool], *, videos: int = 20, protocol: str = "vamba", data: str = "d"
) -> EvaluationResult:
    """Question i is about video i % videos; even ones are of category `order`, odd ones `count`."""
    answers = [
        Answer(question=f"q{i}", video=f"v{i % videos}", shown=f"v{i % videos}", category=("order", "count")[i % 2],
               duration_s=60.0, answer="A", prediction="A" if right else "B", raw="", correct=right)
        for i, right in enumerate(correct)
    ]  # fmt: skip
    directory = folder / name
    directory.mkdir(parents=True)
    AnswerLog(directory / "answers.jsonl").append(answers)
    return EvaluationResult(
        name=name, protocol=protocol, dataset="needles", split="test", control="", model=name, model_digest=name,
        manifest_digest=data, lineage={}, num_questions=len(answers), coverage=1.0, chance=0.25,
        overall=tally(answers), by_category=tally_by(answers, lambda item: item.category), by_length={}, broken=(),
        subset=False, created_at="2025-01-01T00:00:00+00:00", seconds=1.0, directory=str(directory),
    )  # fmt: skip


def candidate(version: str) -> Candidate:
    return Candidate(name="toy", version=version, source="file:///m", directory=Path("/m"), tags={})


def judged(
    mine: EvaluationResult | None, theirs: EvaluationResult | None, gate: GateConfig = GATE, champion: str = "1"
) -> list[Check]:
    evidence = Evidence(
        evaluations=(mine,) if mine else (),
        champion=candidate(champion) if champion else None,
        champion_evaluations=(theirs,) if theirs else (),
        approvers=(),
    )
    assert gate.no_worse is not None
    return list(champion_checks(candidate("2"), evidence, gate.no_worse, gate))


def outcomes(checks: Sequence[Check]) -> dict[str, bool]:
    return {check.name.removeprefix("no worse than champion").removeprefix(": "): check.passed for check in checks}


def test_the_same_answers_are_no_worse(tmp_path: Path) -> None:
    right = [i % 3 > 0 for i in range(200)]
    found = judged(evaluation(tmp_path, "mine", right), evaluation(tmp_path, "theirs", right))
    assert outcomes(found) == {"": True, "order": True, "count": True}


def test_one_category_that_fell_is_enough(tmp_path: Path) -> None:
    before = [True] * 200
    after = [not (i % 2 and i % 5 == 0) for i in range(200)]  # `count` falls by a fifth, `order` stays
    found = judged(evaluation(tmp_path, "mine", after), evaluation(tmp_path, "theirs", before))
    assert outcomes(found) == {"": False, "order": True, "count": False}
    assert "20 lost" in found[0].found


def test_a_drop_within_the_bound_needs_enough_questions_to_pass(tmp_path: Path) -> None:
    """2 % worse, and up to 5 % allowed: on 40 questions chance could hide more than that, on 2,000 it can't."""

    def answers(count: int, wrong: int, step: int) -> list[bool]:
        lost = {(k * step) % count for k in range(wrong)}
        return [i not in lost for i in range(count)]

    few = judged(evaluation(tmp_path, "few", answers(50, 1, 7)), evaluation(tmp_path, "few-before", [True] * 50))
    many = judged(
        evaluation(tmp_path, "many", answers(2000, 40, 49), videos=200),
        evaluation(tmp_path, "many-before", [True] * 2000, videos=200),
    )
    assert not all(outcomes(few).values()) and all(outcomes(many).values()), (few, many)


@pytest.mark.parametrize("change", [{"protocol": "lmms-eval-0.7.3"}, {"data": "other"}], ids=["protocol", "data"])
def test_only_the_same_questions_are_compared(tmp_path: Path, change: dict[str, str]) -> None:
    mine = evaluation(tmp_path, "mine", [True] * 40)
    (check,) = judged(mine, evaluation(tmp_path, "theirs", [True] * 40, **change))  # type: ignore[arg-type]
    assert not check.passed and "was not evaluated on these questions" in check.found
    assert "--model models:/toy/1 first" in check.required
    (check,) = judged(None, mine)
    assert "toy/2 was not evaluated" in check.found and "--model models:/toy/2 first" in check.required


def test_without_a_champion_there_is_nothing_to_be_worse_than(tmp_path: Path) -> None:
    (check,) = judged(evaluation(tmp_path, "mine", [True] * 4), None, champion="")
    assert check.passed and "no champion yet" in check.found
    (check,) = judged(evaluation(tmp_path, "again", [True] * 4), None, champion="2")
    assert check.passed and "it is the champion" in check.found


def test_too_little_to_tell_is_no_pass(tmp_path: Path) -> None:
    one = [evaluation(tmp_path, name, [True] * 40, videos=1) for name in ("mine", "theirs")]
    assert not any(outcomes(judged(*one)).values())
    rule = NoWorse(min_questions=100, min_videos=2)
    two = [evaluation(tmp_path / "two", name, [True] * 150, videos=10) for name in ("mine", "theirs")]
    assert outcomes(judged(*two, GateConfig(no_worse=rule))) == {"": True, "order": False, "count": False}
    only = NoWorse(categories=("order", "colour"))
    assert outcomes(judged(*two, GateConfig(no_worse=only))) == {"": True, "order": True, "colour": False}


def test_questions_that_are_not_the_same_are_told(tmp_path: Path) -> None:
    mine, theirs = (evaluation(tmp_path, name, [True] * 40, videos=v) for name, v in (("mine", 20), ("theirs", 10)))
    (check,) = judged(mine, theirs)
    assert not check.passed and "not the same questions" in check.found


def test_thresholds_may_name_their_benchmarks(tmp_path: Path) -> None:
    needles = evaluation(tmp_path, "mine", [True] * 4)
    other = replace(needles, name="other", dataset="lvbench")
    evidence = Evidence(evaluations=(needles, other), champion=None, champion_evaluations=(), approvers=())
    named = GateConfig(thresholds=(Threshold(metric="overall", at_least=0.5, benchmark="lvbench"),))
    both = replace(named, thresholds=(*named.thresholds, Threshold(metric="overall", at_least=0.5)))
    assert evidence.benchmarks(GateConfig()) == ("needles",)
    assert evidence.benchmarks(named) == ("lvbench",) and evidence.benchmarks(both) == ("needles", "lvbench")
    assert evidence.main("lvbench") is other


@pytest.mark.parametrize(
    "wrong",
    [{"max_drop": -0.1}, {"confidence": 0.3}, {"confidence": 1.0}, {"min_videos": 1}],
    ids=lambda item: next(iter(item)),
)
def test_impossible_rules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gate.no_worse"):
        NoWorse(**wrong)  # type: ignore[arg-type]


def answered(result: EvaluationResult, answers: Sequence[Answer]) -> EvaluationResult:
    """The same with other answers."""
    path = Path(result.directory) / "answers.jsonl"
    path.unlink()
    AnswerLog(path).append(answers)
    return result


def one_answer(index: int, categories: tuple[str, ...], correct: bool, answer: str = "A") -> Answer:
    return Answer(
        question=f"q{index}", video=f"v{index}", shown=f"v{index}", category=", ".join(categories), duration_s=0.0,
        answer=answer, prediction="A", raw="A", correct=correct, groups={"category": categories},
    )  # fmt: skip


def test_a_question_counts_in_each_of_its_categories_and_what_is_not_scored_is_left_out(tmp_path: Path) -> None:
    """As LVBench's, which have several; half of the questions have no published answer."""
    kinds = [("reasoning", "summary"), ("reasoning",), ("summary", "event")]

    def answers(is_right: Callable[[int], bool]) -> list[Answer]:
        scored = [one_answer(i, kinds[i % 3], is_right(i)) for i in range(30)]
        return scored + [one_answer(i, kinds[i % 3], False, answer="") for i in range(30, 60)]

    before = answered(evaluation(tmp_path, "theirs", [True]), answers(lambda i: True))
    after = answered(evaluation(tmp_path, "mine", [True]), answers(lambda i: i % 3 != 2))
    found = judged(after, before)
    assert outcomes(found) == {"": False, "event": False, "reasoning": True, "summary": False}
    assert "100.0% to 66.7%" in found[0].found and "30 questions" in found[0].found
    named = GateConfig(no_worse=NoWorse(max_drop=0.05, categories=("reasoning",)))
    assert outcomes(judged(after, before, named)) == {"": False, "reasoning": True}


def test_overall_is_the_protocols_mean(tmp_path: Path) -> None:
    """A task with a tenth of the questions is lost: of the mean over tasks that is half."""
    scoring = Scoring(headline="macro", macro_group="category")
    kinds = [("count",) if i < 10 else ("order",) for i in range(100)]
    before, after = (
        answered(
            replace(evaluation(tmp_path, name, [True]), scoring=scoring),
            [one_answer(i, kinds[i], bool(i >= lost)) for i in range(100)],
        )
        for name, lost in (("theirs", 0), ("mine", 10))
    )
    assert judged(after, before)[0].found.startswith("100.0% to 50.0%")


def test_controls_are_asked_of_datasets_and_not_of_benchmarks(tmp_path: Path) -> None:
    needles = evaluation(tmp_path, "needles", [i % 4 == 0 for i in range(40)])
    control = replace(needles, name="control", control="shuffled-video")
    lvbench = replace(needles, name="lvbench", dataset="lvbench", settings={"num_frames": 1024})
    named = tuple(Threshold(metric="overall", at_least=0.0, benchmark=name) for name in ("lvbench", "needles"))

    def controls(gate: GateConfig, *evaluations: EvaluationResult) -> dict[str, bool]:
        evidence = Evidence(evaluations=evaluations, champion=None, champion_evaluations=(), approvers=())
        report = judge(candidate("2"), evidence, gate)
        return {check.name: check.passed for check in report.checks if "control" in check.name}

    assert controls(GateConfig(thresholds=named), lvbench, needles, control) == {
        "needles: control: shuffled video": True
    }
    assert controls(GateConfig(), lvbench) == {"control: shuffled video": False}
    assert controls(GateConfig(require_control=False), lvbench) == {}
