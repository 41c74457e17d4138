"""Answers on disk and the numbers made of them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from pipelines.evaluation.results import (
    Answer,
    AnswerLog,
    AnswersDamagedError,
    flat_metrics,
    length_label,
    length_labels,
    metric_part,
    read_answers,
    tally,
    tally_by,
)


def answer(video: str, index: int, correct: bool, prediction: str = "A") -> Answer:
    return Answer(
        question=f"{video}/{index}", video=video, shown=video, category="c", duration_s=60.0, answer="A",
        prediction=prediction, raw=prediction, correct=correct,
    )  # fmt: skip


def test_standard_error_counts_videos_not_questions() -> None:
    together = [answer("a", i, True) for i in range(10)] + [answer("b", i, False) for i in range(10)]
    apart = [answer(f"v{i}", 0, i < 10) for i in range(20)]
    assert tally(together).accuracy == tally(apart).accuracy == 0.5
    assert tally(together).stderr == pytest.approx(math.sqrt(2 * 5**2) / 20)
    assert tally(apart).stderr == pytest.approx(math.sqrt(20 * 0.25) / 20)


def test_one_video_alone_has_no_standard_error() -> None:
    assert tally([answer("a", i, i % 2 == 0) for i in range(10)]).stderr is None


def test_unparsed_answers_are_counted() -> None:
    numbers = tally([answer("a", 0, False, prediction=""), answer("a", 1, True)])
    assert (numbers.num_unparsed, numbers.num_correct, numbers.num_questions) == (1, 1, 2)


def test_lengths_are_grouped_half_open_and_in_order() -> None:
    edges = (60.0, 600.0)
    assert [length_label(s, edges) for s in (59.9, 60.0, 599.0, 600.0)] == [
        "under 1 min", "1-10 min", "1-10 min", "10 min and over",
    ]  # fmt: skip
    groups = tally_by([answer("a", 0, True)], lambda _: "10 min and over", length_labels(edges))
    assert list(groups) == ["10 min and over"]


def test_a_line_torn_by_a_kill_is_cut_off_and_asked_again(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    log.append([answer("a", 0, True), answer("a", 1, False)])
    with log.path.open("a") as file:
        file.write('{"question": "a/2", "vid')
    assert [item.question for item in log.read()] == ["a/0", "a/1"]
    log.append([answer("a", 2, True)])
    assert [item.question for item in log.read()] == ["a/0", "a/1", "a/2"]


@pytest.mark.parametrize(
    "end", [b'{"question": "a/2", "vid', b'{"question": "a/2", "vid\n', b"\0" * 64, b"\0\0\n", b"\n", b'"a/2"\n']
)
def test_whatever_a_kill_or_a_power_cut_leaves_at_the_end_is_asked_again(tmp_path: Path, end: bytes) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    log.append([answer("a", 0, True), answer("a", 1, False)])
    whole = log.path.read_bytes()
    log.path.write_bytes(whole + end)
    assert [item.question for item in read_answers(log.path)] == ["a/0", "a/1"]
    assert log.path.read_bytes() == whole + end, "who only reads changes nothing"
    assert [item.question for item in log.read()] == ["a/0", "a/1"] and log.path.read_bytes() == whole


def test_a_damaged_line_before_others_is_named(tmp_path: Path) -> None:
    log = AnswerLog(tmp_path / "answers.jsonl")
    log.append([answer("a", 0, True), answer("a", 1, False)])
    first, second = log.path.read_bytes().splitlines(keepends=True)
    for damaged in (first[:40] + b"\n", b'{"of another": "version"}\n'):
        log.path.write_bytes(damaged + second)
        with pytest.raises(AnswersDamagedError, match=r"answers.jsonl, line 1 is no answer"):
            log.read()


def test_metric_names_are_ones_that_mlflow_takes() -> None:
    from mlflow.utils.validation import _validate_metric_name

    numbers = tally([answer("a", 0, True), answer("b", 0, False)])
    names = ["", "a//b", "Sports/", "..", "Wer? (und wie)", "x" * 400, "x" * 400 + "y"]
    found = flat_metrics(f"eval/vamba/{metric_part('demo (1)')}", {f"category/{name}": numbers for name in names})
    assert len(found) == 3 * len(names)
    for name in found:
        _validate_metric_name(name)
        assert len(name) <= 250
