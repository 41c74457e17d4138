"""A set of one's own, described by a YAML file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.evaluation.benchmarks.own import read_own, read_own_file
from pipelines.evaluation.benchmarks.question import BenchmarkQuestion
from pipelines.evaluation.benchmarks.rows import AnnotationError
from pipelines.evaluation.protocols.catalogue import find_recipe
from tests.pipelines.evaluation.benchmarks import folders

YAML = """
name: warehouse
annotations: questions.jsonl
videos: clips
template: nextqa
num_frames: 8
fields: {video: file, question: text, options: choices, answer: label, categories: [topic, tags], start: t0, end: t1}
"""
ROW = {"file": "a.mp4", "text": "What?", "choices": ["x", "y"], "label": "y", "topic": "safety", "tags": ["p", "q"]}


def test_fields_are_mapped(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(YAML)
    rows = [ROW, {**ROW, "label": "A", "t0": 1, "t1": 2.5}, {**ROW, "label": 1}]
    folders.write_lines(tmp_path / "questions.jsonl", rows)
    own = read_own_file(tmp_path / "my.yaml")
    benchmark = read_own(own, tmp_path / "my.yaml")
    assert (benchmark.name, own.template, own.num_frames) == ("warehouse", "nextqa", 8)
    assert [question.answer for question in benchmark.questions] == ["B", "A", "B"]
    assert benchmark.questions[0].groups == {"category": ("safety",), "topic": ("safety",), "tags": ("p", "q")}
    assert (benchmark.questions[1].clip.start_s, benchmark.questions[1].clip.end_s) == (1.0, 2.5)
    assert benchmark.questions[0].clip.path == str(tmp_path / "clips" / "a.mp4")


def test_parquet_is_read_too(tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(YAML.replace("jsonl", "parquet"))
    folders.write_parquet(tmp_path / "questions.parquet", [ROW])
    own = read_own_file(tmp_path / "my.yaml")
    assert read_own(own, tmp_path / "my.yaml").questions[0].options == ("x", "y")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: x", "lacks `annotations`"),
        (YAML + "frames: 3", "no setting `frames`"),
        (YAML.replace("num_frames: 8", "num_frames: many"), "`num_frames` is 'many'"),
        (YAML.replace("file,", "file, colour: c,"), "no setting `colour`"),
        ("- a", "an object with the keys"),
    ],
)
def test_mistakes_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text(text)
    with pytest.raises(AnnotationError, match=message):
        read_own_file(tmp_path / "my.yaml")


@pytest.mark.parametrize("protocol", ["vamba", "lmms-eval-0.7.3"])
def test_more_options_than_five_can_be_right(tmp_path: Path, protocol: str) -> None:
    """Where the template's rule compares what was said with the right letter, and does not know A to E alone."""
    options = ["r", "s", "t", "u", "v", "w", "x"]
    folders.write_lines(tmp_path / "q.jsonl", [{"video": "v", "question": "Q", "options": options, "answer": "x"}])
    (tmp_path / "my.yaml").write_text("name: x\nannotations: q.jsonl\ntemplate: mvbench\n")
    (question,) = read_own(read_own_file(tmp_path / "my.yaml"), tmp_path / "my.yaml").questions
    read = find_recipe(protocol, "mvbench").read
    assert question.answer == "G"
    assert [read(reply, question.options) for reply in ("G", " (g) ", "B", "H")] == ["G", "G", "B", ""]
    assert read("G", ("a", "b")) == ""


def test_there_are_no_more_options_than_letters(tmp_path: Path) -> None:
    options = [str(number) for number in range(30)]
    folders.write_lines(tmp_path / "q.jsonl", [{"video": "v", "question": "Q", "options": options, "answer": "29"}])
    (tmp_path / "my.yaml").write_text("name: x\nannotations: q.jsonl\n")
    with pytest.raises(AnnotationError, match="line 1: there are more options than letters"):
        read_own(read_own_file(tmp_path / "my.yaml"), tmp_path / "my.yaml")


def read(tmp_path: Path, text: str) -> list[BenchmarkQuestion]:
    (tmp_path / "my.yaml").write_text(text)
    return list(read_own(read_own_file(tmp_path / "my.yaml"), tmp_path / "my.yaml").questions)


def test_csv_has_lists_as_json_and_leaves_fields_empty(tmp_path: Path) -> None:
    (tmp_path / "q.csv").write_text(
        'id,video,question,options,answer,start,end\n,v,Q,"[""red"", ""blue""]",blue,,\n'
        '7,v,Q,"[""red"", ""blue""]",0,1,2.5\n'
    )
    first, second = read(tmp_path, "name: x\nannotations: q.csv\n")
    assert (first.options, first.answer, first.id, first.clip.start_s) == (("red", "blue"), "B", "row 1", None)
    assert (second.answer, second.id, second.clip.end_s) == ("A", "7", 2.5)
    (tmp_path / "q.csv").write_text("video,question,options,answer\nv,Q,red; blue,blue\n")
    with pytest.raises(AnnotationError, match="`options` is 'red; blue', and a list was expected"):
        read(tmp_path, "name: x\nannotations: q.csv\n")
    (tmp_path / "q.csv").write_text("video,question,answer\nv,Q,A,more\n")
    with pytest.raises(AnnotationError, match="row 1: it has more fields than the 3"):
        read(tmp_path, "name: x\nannotations: q.csv\n")


@pytest.mark.parametrize(
    ("options", "answer", "letter"),
    [
        (["1", "2", "3"], 2, "C"),  # a number among texts is a place
        (["1", "2", "3"], "2", "B"),
        ([1, 2, 3], 2, "B"),
        (["x", "y"], " y ", "B"),
        (["x", "y"], "(b)", "B"),
    ],
)
def test_answers_as_texts_letters_and_numbers(
    tmp_path: Path, options: list[object], answer: object, letter: str
) -> None:
    folders.write_lines(tmp_path / "q.jsonl", [{"video": "v", "question": "Q", "options": options, "answer": answer}])
    assert [question.answer for question in read(tmp_path, "name: x\nannotations: q.jsonl\n")] == [letter]


def test_a_letter_without_an_option_is_named(tmp_path: Path) -> None:
    row = {"video": "v", "question": "Q", "options": ["x", "y"], "answer": "C"}
    folders.write_lines(tmp_path / "q.jsonl", [row])
    with pytest.raises(AnnotationError, match="`answer` is 'C', and there are 2 options"):
        read(tmp_path, "name: x\nannotations: q.jsonl\n")


@pytest.mark.parametrize("template", ["videomme", "hourvideo"])
@pytest.mark.parametrize("options", [["red", "blue"], ["A. red", "B. blue"]])
def test_options_get_the_letters_that_the_template_has_in_its_data(
    tmp_path: Path, template: str, options: list[str]
) -> None:
    folders.write_lines(tmp_path / "q.jsonl", [{"video": "v", "question": "Q", "options": options, "answer": "B"}])
    (question,) = read(tmp_path, f"name: x\nannotations: q.jsonl\ntemplate: {template}\n")
    assert (question.options, question.answer) == (("A. red", "B. blue"), "B")
