"""HourVideo: egocentric videos of 20 to 120 minutes, five options a question, written out in `mcq_test`.

`dev_v1.0_annotations.json` as published: {video_uid: {"benchmark_dataset": [questions]}}. The right answers of the test
split are not published; the predictions file is what its scorer takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import AnnotationError, Row, digest_of_files, find_files, read_json, row_of
from pipelines.evaluation.benchmarks.videos import find_video
from pipelines.evaluation.protocols.vamba import hourvideo_label

_ANNOTATIONS = ("dev_v*_annotations.json", "*annotations*.json", "*.json", "*/*annotations*.json")
_SOURCE = "https://huggingface.co/datasets/HourVideo/HourVideo"
_FOLDERS = ("videos", "video", ".")


def read_hourvideo(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    files = find_files(folder, _ANNOTATIONS, benchmark="HourVideo", source=_SOURCE)
    questions = [_question(folder, uid, row) for file in files for uid, row in _rows(file)]
    return Benchmark(name="hourvideo", questions=tuple(questions), digest=digest_of_files(files))


def hourvideo_predictions(benchmark: Benchmark, replies: Mapping[str, str]) -> dict[str, Any]:
    """The annotations with `predicted_answer_label` in every question, as the official scorer reads them.

    replies: what the model said, by id of the question; a question without a reply is handed in as Z.
    """
    document: dict[str, Any] = {}
    for question in benchmark.questions:
        label = hourvideo_label(replies[question.id]) if question.id in replies else "Z"
        entry = {**question.published, "predicted_answer_label": label}
        document.setdefault(question.video, {"benchmark_dataset": []})["benchmark_dataset"].append(entry)
    return document


def _rows(file: Path) -> Iterator[tuple[str, Row]]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise AnnotationError(f"{file} is no HourVideo file: an object of videos by their uid was expected.")
    for uid, video in content.items():
        questions = video.get("benchmark_dataset") if isinstance(video, dict) else None
        if not isinstance(questions, list):
            raise AnnotationError(f"{file}, video {uid}: the field `benchmark_dataset` is missing or no list.")
        for number, values in enumerate(questions, start=1):
            yield uid, row_of(file, f"video {uid}, question {number}", values)


def _question(folder: Path, uid: str, row: Row) -> BenchmarkQuestion:
    task = row.text("task") if row.has("task") else "untyped"
    number = row.place.rpartition(" ")[2]
    return BenchmarkQuestion(
        id=f"{uid}/{row.text('qid') if row.has('qid') else number}",
        video=uid,
        clip=Clip(path=str(find_video([folder / place for place in _FOLDERS], uid))),
        question=row.text("question"),
        options=tuple(row.text("mcq_test").split("\n")),
        answer=row.letter("correct_answer_label") if row.says("correct_answer_label") else "",
        groups={"category": (task,), "task_group": (task.partition("/")[0],)},
        published=row.values,
    )
