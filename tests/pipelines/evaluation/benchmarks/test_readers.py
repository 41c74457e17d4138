"""Each benchmark read from a folder in its published form, and what is said of a folder that is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipelines.evaluation.benchmarks.catalogue import read_benchmark
from pipelines.evaluation.benchmarks.hourvideo import hourvideo_predictions
from pipelines.evaluation.benchmarks.question import Benchmark
from pipelines.evaluation.benchmarks.rows import AnnotationError
from tests.pipelines.evaluation.benchmarks import folders


def answers(benchmark: Benchmark) -> list[tuple[str, str]]:
    return [(question.video, question.answer) for question in benchmark.questions]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lvbench", [("abc", "A"), ("abc", "B"), ("-def", "C")]),
        ("hourvideo", [("uid-1", "A"), ("uid-1", "E"), ("uid-2", "B")]),
        ("videomme", [("fFjv93", "C"), ("fFjv93", "D"), ("N1cd", "A")]),
        ("mlvu", [("2_needle/needle_1.mp4", "B"), ("4_count/count_1.mp4", "D"), ("4_count/count_1.mp4", "A")]),
        ("longvideobench", [("86CxyhFV9MI.mp4", "C"), ("other.mp4", "A")]),
        ("nextqa", [("4010069381", "E"), ("4010069381", "A")]),
        ("houreval", [("videomme/N1cd", "A"), ("longvideobench/other.mp4", "A")]),
    ],
)
def test_reads_the_published_form(name: str, expected: list[tuple[str, str]], tmp_path: Path) -> None:
    benchmark = read_benchmark(name, getattr(folders, name)(tmp_path))
    assert benchmark.name == name and benchmark.digest.startswith("sha256:")
    assert answers(benchmark) == expected
    assert all(question.clip.exists for question in benchmark.questions)
    assert len({question.id for question in benchmark.questions}) == len(expected)


def test_mvbench_knows_parts_and_pictures(tmp_path: Path) -> None:
    benchmark = read_benchmark("mvbench", folders.mvbench(tmp_path))
    clips = {question.id: question.clip for question in benchmark.questions}
    assert (clips["action_sequence/1"].start_s, clips["action_sequence/1"].end_s) == (1.0, 2.5)
    assert clips["moving_count/1"].end_s is None
    assert clips["episodic_reasoning/1"].pictures_per_s == 3
    assert all(clip.exists for clip in clips.values())
    assert len(benchmark.missing_parts) == 17


def test_parts_cut_out_already_are_shown_whole(tmp_path: Path) -> None:
    folders.mvbench(tmp_path)
    whole = tmp_path / "video" / "star" / "Charades_v1_480" / "s.mp4"
    cut = tmp_path / "video" / "star" / "Charades_segment" / "s.mp4"
    cut.parent.mkdir()
    whole.rename(cut)
    clip = next(item.clip for item in read_benchmark("mvbench", tmp_path).questions if "action" in item.id)
    assert (clip.path, clip.start_s, clip.end_s) == (str(cut), None, None)


def test_groups(tmp_path: Path) -> None:
    lvbench = read_benchmark("lvbench", folders.lvbench(tmp_path / "lvbench"))
    assert lvbench.questions[0].groups == {"category": ("reasoning", "summarization")}
    mlvu = read_benchmark("mlvu", folders.mlvu(tmp_path / "mlvu"))
    assert mlvu.questions[0].groups == {"category": ("findNeedle",), "task_type": ("needle",)}
    assert mlvu.missing_parts == ("1_plotQA", "3_ego", "5_order", "6_anomaly_reco", "7_topic_reasoning")
    videomme = read_benchmark("videomme", folders.videomme(tmp_path / "videomme"))
    assert videomme.questions[0].groups["duration"] == ("short",)
    assert videomme.questions[0].groups["sub_category"] == ("Geography",)


def test_other_published_forms(tmp_path: Path) -> None:
    flat = {"file_path": "x.mp4", "question": "Q\n(A) a", "answer": "A", "question_type": ["reasoning"]}
    folders.write_lines(tmp_path / "flat" / "lvbench_processed.jsonl", [flat])
    assert answers(read_benchmark("lvbench", tmp_path / "flat")) == [("x.mp4", "A")]
    row = {
        "video_path": "x.mp4", "question": "Q", "correct_choice": 1, "question_category": "S2E", "id": "1",
        "option0": "a", "option1": "b", "option2": "N/A", "option3": "N/A", "option4": "N/A",
    }  # fmt: skip
    folders.write_parquet(tmp_path / "lvb" / "validation-00000-of-00001.parquet", [row])
    (question,) = read_benchmark("longvideobench", tmp_path / "lvb").questions
    assert (question.options, question.answer) == (("a", "b"), "B")
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "test.csv").write_text(
        "video,question,answer,qid,type,a0,a1,a2,a3,a4\n42,why,3,0,CW,a,b,c,d,e\n"
    )
    folders.write_json(tmp_path / "original" / "map_vid_vidorID.json", {"42": "1164/42"})
    path = folders.touch(tmp_path / "original" / "videos" / "1164" / "42.mp4")
    (question,) = read_benchmark("nextqa", tmp_path / "original").questions
    assert (question.clip.path, question.answer) == (str(path), "D")


def test_filtered_parts_of_houreval_are_taken_as_they_are(tmp_path: Path) -> None:
    folders.houreval(tmp_path)
    (tmp_path / "MLVU" / "MLVU" / "json").rename(tmp_path / "MLVU" / "MLVU" / "filtered_json")
    parts = [question.part for question in read_benchmark("houreval", tmp_path).questions]
    assert parts == ["videomme", "mlvu", "mlvu", "mlvu", "longvideobench"]


def test_predictions_go_back_into_the_annotations_of_hourvideo(tmp_path: Path) -> None:
    benchmark = read_benchmark("hourvideo", folders.hourvideo(tmp_path))
    document = hourvideo_predictions(benchmark, {"uid-1/u1_0": "The answer is C.", "uid-1/u1_1": ""})
    published = json.loads((tmp_path / "dev_v1.0_annotations.json").read_text())
    labels = [item.pop("predicted_answer_label") for video in document.values() for item in video["benchmark_dataset"]]
    assert labels == ["C", "Z", "Z"]
    assert {uid: video["benchmark_dataset"] for uid, video in published.items()} == {
        uid: video["benchmark_dataset"] for uid, video in document.items()
    }


def test_what_is_wrong_is_said_with_file_row_and_field(tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match="holds no annotations of LVBench.*video_info.meta.jsonl.*huggingface"):
        read_benchmark("lvbench", tmp_path)
    with pytest.raises(AnnotationError, match="--data"):
        read_benchmark("lvbench", tmp_path / "nowhere")
    with pytest.raises(ValueError, match="did you mean videomme"):
        read_benchmark("Video-MME", tmp_path)
    row = {"video": "v.mp4", "question": "Q", "candidates": ["a", "b"], "answer": "c", "question_type": "count"}
    file = folders.write_json(tmp_path / "json" / "4_count.json", [{**row, "answer": "a"}, row])
    with pytest.raises(AnnotationError, match=rf"{file}, row 2: the field `answer` is 'c', and none of the options"):
        read_benchmark("mlvu", tmp_path)
    folders.write_json(file, [{name: value for name, value in row.items() if name != "video"}])
    with pytest.raises(AnnotationError, match="row 1: the field `video` is missing"):
        read_benchmark("mlvu", tmp_path)
    file.write_text("[{")
    with pytest.raises(AnnotationError, match="4_count.json can't be read as JSON"):
        read_benchmark("mlvu", tmp_path)
    lines = tmp_path / "video_info.meta.jsonl"
    lines.write_text('{"key": "v", "qa": []}\nnot json\n')
    with pytest.raises(AnnotationError, match=r"video_info.meta.jsonl, line 2 is not JSON"):
        read_benchmark("lvbench", tmp_path)


def test_marks_separators_and_numbers_of_tables_change_nothing(tmp_path: Path) -> None:
    """What other programs write: a byte order mark, separators of lines within a text, whole numbers as 4.0, NaN."""
    row = {"file_path": "x.mp4", "question": "Q\u2028\x85 and so on\n(A) a", "answer": " (a). ", "question_type": "x"}
    (tmp_path / "lv").mkdir()
    line = json.dumps(row, ensure_ascii=False)
    (tmp_path / "lv" / "q.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n\r\n{line}".encode())
    questions = read_benchmark("lvbench", tmp_path / "lv").questions
    assert [(item.question, item.answer) for item in questions] == [(row["question"], "A")] * 2
    (tmp_path / "csv").mkdir()
    text = "\ufeffvideo,question,answer,qid,type,a0,a1,a2,a3,a4\n42,why,3,0,CW,a,b,c,d,\n"
    (tmp_path / "csv" / "test.csv").write_text(text, encoding="utf-8")
    (question,) = read_benchmark("nextqa", tmp_path / "csv").questions
    assert (question.answer, question.options[4]) == ("D", "")
    values = {"video": 4010069381.0, "question": "q", "answer": 4.0, "qid": 6.0, "type": "CW"}
    options = {f"a{index}": str(index) for index in range(5)}
    folders.write_parquet(tmp_path / "nan" / "MC" / "test-0.parquet", [{**values, **options}])
    (question,) = read_benchmark("nextqa", tmp_path / "nan").questions
    assert (question.id, question.video, question.answer) == ("4010069381/6", "4010069381", "E")
    counted = {"video": "v.mp4", "question": "Q", "candidates": ["a ", "b"], "answer": "a", "duration": float("nan")}
    folders.write_json(tmp_path / "mlvu" / "json" / "4_count.json", [counted])
    (question,) = read_benchmark("mlvu", tmp_path / "mlvu").questions
    assert (question.answer, question.options, question.published) == ("A", ("a ", "b"), {"duration": None})


def test_answers_that_are_not_published(tmp_path: Path) -> None:
    row = {"video_path": "x.mp4", "question": "Q", "candidates": ["a", "b"], "question_category": "S2E", "id": "1"}
    rows = [row, {**row, "correct_choice": None}, {**row, "correct_choice": -1}, {**row, "correct_choice": 1}]
    folders.write_json(tmp_path / "lvb_val.json", rows)
    assert [item.answer for item in read_benchmark("longvideobench", tmp_path).questions] == ["", "", "", "B"]
    with pytest.raises(AnnotationError, match="`correct_choice` is 2, and a number from 0 to 1"):
        folders.write_json(tmp_path / "lvb_val.json", [{**row, "correct_choice": 2}])
        read_benchmark("longvideobench", tmp_path)


@pytest.mark.parametrize(
    ("benchmark", "file", "content", "message"),
    [
        ("lvbench", "video_info.meta.jsonl", b'{"key": "v", "qa": {"a": 1}}', "line 1: the field `qa` is no list"),
        ("lvbench", "video_info.meta.jsonl", b'{"key": "v", "qa": ["a"]}', "line 1, question 1 is 'a', and an object"),
        ("lvbench", "a.jsonl", b'{"question": "\xff"}', "can't be read as text in UTF-8"),
        ("nextqa", "test.csv", b"video\n\xff", "can't be read as text in UTF-8"),
        (
            "hourvideo",
            "dev_v1.0_annotations.json",
            b'{"u": {"benchmark_dataset": ["x"]}}',
            "video u, question 1 is 'x'",
        ),
        (
            "mvbench",
            "json/action_sequence.json",
            b'[{"video": "v", "question": "Q", "candidates": ["a"], "answer": "a", "start": Infinity}]',
            "row 1: the field `start` is inf",
        ),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, benchmark: str, file: str, content: bytes, message: str) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(AnnotationError, match=message):
        read_benchmark(benchmark, tmp_path)


@pytest.mark.parametrize(
    ("named", "there"),
    [("a.MOV", "a.MOV"), ("a.flv", "a.flv"), ("a", "a.m4v"), ("a", "a.MOV"), ("a.mp4", "a.webm"), ("a.b", "a.b.ts")],
)
def test_videos_are_found_whatever_their_ending(tmp_path: Path, named: str, there: str) -> None:
    row = {"file_path": named, "question": "Q\n(A) a", "answer": "A", "question_type": ["x"]}
    folders.write_lines(tmp_path / "q.jsonl", [row])
    path = folders.touch(tmp_path / "videos" / there)
    (question,) = read_benchmark("lvbench", tmp_path).questions
    assert question.clip.path == str(path)


def test_halves_of_characters_and_names_that_no_file_has(tmp_path: Path) -> None:
    row = {"file_path": "a.mp4", "question": "What \ud83d?\n(A) a", "answer": "A", "question_type": ["x\udc00"]}
    folders.write_lines(tmp_path / "q.jsonl", [row])
    (question,) = read_benchmark("lvbench", tmp_path).questions
    assert (question.question, question.groups) == ("What \ufffd?\n(A) a", {"category": ("x\ufffd",)})
    folders.write_lines(tmp_path / "q.jsonl", [{**row, "file_path": "x" * 300}])
    with pytest.raises(AnnotationError, match="too long for the name of a file"):
        read_benchmark("lvbench", tmp_path)
