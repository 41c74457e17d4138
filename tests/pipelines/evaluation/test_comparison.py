"""Two evaluations beside each other: what is compared, what is refused, and what is said of wins and losses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation.comparable import IncomparableError
from pipelines.evaluation.comparison import NothingToCompareError, compare_evaluations
from pipelines.evaluation.protocols.recipe import Scoring
from pipelines.evaluation.references import EvaluationNotFoundError, find_pair
from pipelines.evaluation.result import ANSWERS_NAME, EvaluationResult, evaluations_directory
from pipelines.evaluation.results import Answer, AnswerLog, tally


def answer(number: int, correct: bool, *, video: str = "", groups: Mapping[str, Sequence[str]] | None = None) -> Answer:
    said = "A" if correct else "B"
    found = {"category": ("odd" if number % 2 else "even",)} if groups is None else groups
    return Answer(
        question=f"q{number:03}", video=video or f"v{number // 2}", shown="v", category=", ".join(found["category"]),
        duration_s=0.0, answer="A", prediction=said, raw=said, correct=correct, groups=found,
    )  # fmt: skip


def write(name: str, answers: Sequence[Answer], **changes: object) -> EvaluationResult:
    directory = evaluations_directory() / name
    directory.mkdir(parents=True)
    result = EvaluationResult(
        name=name, protocol="vamba", dataset="lvbench", split="test", control="", model=name, model_digest=name,
        manifest_digest="sha256:1", lineage={}, num_questions=len(answers), coverage=1.0, chance=0.25,
        overall=tally(answers) if answers else None, by_category={}, by_length={}, broken=(), subset=False,
        created_at=f"2026-01-0{len(list(evaluations_directory().iterdir()))}T00:00:00+00:00", seconds=1.0,
        directory=str(directory), settings={"num_frames": 64},
    )  # fmt: skip
    result = replace(result, **changes)  # type: ignore[arg-type]
    AnswerLog(directory / ANSWERS_NAME).append(answers)
    result.write()
    return result


def test_the_difference_is_of_the_pairs_and_by_group() -> None:
    write("a", [answer(i, i % 4 == 0) for i in range(40)])
    write("b", [answer(i, i % 2 == 0) for i in range(1, 42)])
    found = compare_evaluations("a", "b")
    assert (found.micro.num_questions, found.a.num_alone, found.b.num_alone) == (39, 1, 2)
    assert found.micro.difference == pytest.approx((19 - 9) / 39)
    assert (found.micro.wins, found.micro.losses, len(found.wins), found.num_both) == (10, 0, 10, 9)
    assert {group.name: group.difference for group in found.groups} == {
        "category/even": pytest.approx(10 / 19),
        "category/odd": 0.0,
    }
    assert found.macro.difference == pytest.approx(5 / 19)
    assert found.overall is found.micro and found.micro.better == "B"
    assert found.micro.low is not None and 0 < found.micro.low < found.micro.difference
    wide = compare_evaluations("a", "b", confidence=0.99).micro
    assert wide.low is not None and wide.low < found.micro.low


def test_swapped_sides_swap_everything() -> None:
    write("a", [answer(i, i % 3 == 0) for i in range(30)])
    write("b", [answer(i, i % 4 == 0) for i in range(30)])
    there, back = compare_evaluations("a", "b"), compare_evaluations("b", "a")
    assert there.macro.difference == pytest.approx(-back.macro.difference)
    assert there.macro.low == pytest.approx(-(back.macro.high or 0))
    assert [item.question for item in there.wins] == [item.question for item in back.losses]


def test_a_question_counts_in_each_of_its_groups() -> None:
    groups = {"category": ("x", "y"), "duration": ("long",)}
    write("a", [answer(i, False, groups=groups) for i in range(8)])
    write("b", [answer(i, True, groups=groups) for i in range(8)])
    found = compare_evaluations("a", "b")
    assert {group.name: group.num_questions for group in found.groups} == {
        "category/x": 8, "category/y": 8, "duration/long": 8,
    }  # fmt: skip


def test_the_protocols_mean_and_its_denominator_are_kept() -> None:
    """MLVU's mean counts absent tasks as 0; MVBench leaves empty replies out."""
    tasks = [{"category": ("c",), "task_type": (name,)} for name in ("count", "order")]
    scoring = Scoring(headline="macro", macro_group="task_type", macro_of=("count", "ego", "order", "plotQA"))
    write("a", [answer(i, False, groups=tasks[i % 2]) for i in range(8)], scoring=scoring)
    write("b", [answer(i, i % 2 == 0, groups=tasks[i % 2]) for i in range(8)], scoring=scoring)
    found = compare_evaluations("a", "b")
    assert found.overall.name == "macro" and found.overall.difference == pytest.approx(1 / 4)
    empty = [replace(answer(i, False), raw="", prediction="") for i in range(4)]
    write("c", [*empty, answer(4, True)], scoring=Scoring(counts_empty=False))
    write("d", [answer(i, True) for i in range(5)], scoring=Scoring(counts_empty=False))
    found = compare_evaluations("c", "d")
    assert (found.micro.num_questions, found.b.num_alone) == (1, 4)


def test_one_video_has_no_interval() -> None:
    write("a", [answer(i, False, video="v") for i in range(4)])
    write("b", [answer(i, True, video="v") for i in range(4)])
    found = compare_evaluations("a", "b")
    assert found.micro.difference == 1.0
    assert (found.micro.low, found.macro.high, found.micro.better) == (None, None, "")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"protocol": "lmms-eval-0.7.3"}, "protocol vamba and lmms-eval-0.7.3"),
        ({"manifest_digest": "sha256:2"}, "questions sha256:1 and sha256:2"),
        ({"settings": {"num_frames": 8}}, "num_frames 64 and 8"),
        ({"control": "shuffled-video"}, "control none and shuffled-video"),
        ({"dataset": "mlvu"}, "benchmark lvbench and mlvu"),
    ],
)
def test_what_was_measured_otherwise_is_refused(changes: dict[str, object], said: str) -> None:
    write("a", [answer(0, True)])
    write("b", [answer(0, True)], **changes)
    with pytest.raises(IncomparableError, match=said):
        compare_evaluations("a", "b")


def test_evaluations_are_found_by_name_directory_and_file(tmp_path: Path) -> None:
    kept = Path(write("a", [answer(0, True)]).directory)
    moved = tmp_path / "elsewhere"
    kept.rename(moved)
    write("b", [answer(0, True)])
    assert find_pair(str(moved), "b")[0].directory == str(moved)
    assert compare_evaluations(str(moved / "evaluation.json"), "b").micro.num_questions == 1
    with pytest.raises(EvaluationNotFoundError, match=r"no evaluation 'c': not a name in .* \(b\)"):
        find_pair("b", "c")
    (evaluations_directory() / "begun").mkdir()
    with pytest.raises(EvaluationNotFoundError, match="no evaluation.json yet"):
        find_pair("b", "begun")


def test_of_a_version_the_first_comparable_evaluation_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    def version(reference: str) -> SimpleNamespace:
        return SimpleNamespace(lineage={"model_digest": reference.removeprefix("models:/")})

    monkeypatch.setattr("pipelines.registry.models.resolve_model", version)
    write("a", [answer(0, True)], model_digest="m@champion")
    write("a-newer", [answer(0, True)], model_digest="m@champion", protocol="lmms-eval-0.7.3")
    write("b-part", [answer(0, True)], model_digest="m/2", subset=True)
    write("b", [answer(0, True)], model_digest="m/2")
    assert [result.name for result in find_pair("models:/m@champion", "models:/m/2")] == ["a", "b"]
    with pytest.raises(EvaluationNotFoundError, match="was not evaluated here"):
        find_pair("models:/m/3", "b")


def test_nothing_in_common_and_answers_that_are_torn() -> None:
    write("a", [answer(0, True)])
    write("b", [answer(1, True)])
    with pytest.raises(NothingToCompareError, match="no question in common"):
        compare_evaluations("a", "b")
    file = evaluations_directory() / "a" / ANSWERS_NAME
    file.write_bytes(torn := file.read_bytes() + json.dumps({"question": "q"}).encode()[:5])
    assert compare_evaluations("a", "a").micro.difference == 0.0
    assert file.read_bytes() == torn, "a comparison changes nothing"
    with pytest.raises(ValueError, match="between 0 and 1"):
        compare_evaluations("a", "a", confidence=95)
