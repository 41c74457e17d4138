"""Micro, macro, groups and what leaves the denominator; and which results may be compared."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from pipelines.evaluation.comparable import IncomparableError, differences, require_comparable
from pipelines.evaluation.protocols.catalogue import find_recipe
from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.results import Answer
from pipelines.evaluation.scores import score


def answer(video: str, correct: bool, raw: str = "A", key: str = "A", **groups: tuple[str, ...]) -> Answer:
    prediction = raw if raw in "ABCD" else ""
    return Answer(
        question=f"{video}/{raw}", video=video, shown=video, category="", duration_s=0, answer=key,
        prediction=prediction, raw=raw, correct=correct, groups=groups,
    )  # fmt: skip


def test_a_question_of_lvbench_counts_in_each_of_its_types() -> None:
    answers = [answer("a", True, category=("r", "s")), answer("b", False, category=("r",))]
    scores = score(answers, find_recipe("vamba", "lvbench"))
    assert scores.overall is not None and scores.overall.num_questions == 2
    assert {name: numbers.accuracy for name, numbers in scores.by_category.items()} == {"r": 0.5, "s": 1.0}
    assert (scores.micro, scores.macro) == (0.5, 0.75)


def test_mlvu_is_micro_in_one_protocol_and_macro_over_seven_tasks_in_the_other() -> None:
    answers = [
        answer("a", True, category=("count",), task_type=("count",)),
        answer("b", True, category=("count",), task_type=("count",)),
        answer("c", False, category=("ego",), task_type=("ego",)),
        answer("d", True, category=("ego",), task_type=("ego",)),
    ]
    micro = score(answers, find_recipe("vamba", "mlvu")).overall
    macro = score(answers, find_recipe("lmms-eval-0.7.3", "mlvu")).overall
    assert micro is not None and micro.accuracy == 0.75
    assert macro is not None and macro.accuracy == pytest.approx(1.5 / 7), "a task without answers counts as 0"
    assert macro.stderr == pytest.approx(math.sqrt(2 * (0.5 / (2 * 7)) ** 2))


def test_empty_answers_leave_the_denominator_of_mvbench_in_lmms_eval_only() -> None:
    answers = [answer("a", True, category=("x",)), answer("b", False, raw="", category=("x",))]
    assert score(answers, find_recipe("lmms-eval-0.7.3", "mvbench")).micro == 1.0
    assert score(answers, find_recipe("vamba", "mvbench")).micro == 0.5
    overall = score(answers, find_recipe("lmms-eval-0.7.3", "mvbench")).overall
    assert overall is not None and (overall.num_questions, overall.num_unparsed) == (1, 1)


def test_what_has_no_published_answer_is_not_scored() -> None:
    assert score([answer("a", False, key="")], find_recipe("vamba", "hourvideo")).overall is None


def result(**changes: object) -> EvaluationResult:
    made = EvaluationResult(
        name="one", protocol="vamba", dataset="lvbench", split="test", control="", model="m", model_digest="d",
        manifest_digest="sha256:1", lineage={}, num_questions=1, coverage=1.0, chance=None, overall=None,
        by_category={}, by_length={}, broken=(), subset=False, created_at="", seconds=0, directory="",
        settings={"num_frames": 1024},
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_results_of_two_protocols_are_not_compared() -> None:
    assert differences(result(), result(name="two", model="n")) == []
    with pytest.raises(IncomparableError, match=r"protocol vamba and lmms-eval-0\.7\.3"):
        require_comparable(result(), result(protocol="lmms-eval-0.7.3"))
    with pytest.raises(IncomparableError, match="num_frames 1024 and 64"):
        require_comparable(result(), result(settings={"num_frames": 64}))
    with pytest.raises(IncomparableError, match="questions"):
        require_comparable(result(), result(manifest_digest="sha256:2"))
