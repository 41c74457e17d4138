"""LVBench: 103 videos of an hour and more, 1,549 questions with their options written inside.

`video_info.meta.jsonl` as published (one line per video, its questions in `qa`), the flat JSONL of the Vamba scripts
(`file_path`), or the Parquet of lmms-eval. A question has several types and counts in each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_rows, row_of
from pipelines.evaluation.benchmarks.videos import find_video

_ANNOTATIONS = ("video_info.meta.jsonl", "*.jsonl", "data/*.jsonl", "data/*.parquet", "*.parquet")
_SOURCE = "https://huggingface.co/datasets/zai-org/LVBench"
_FOLDERS = ("videos", "all_videos", "video", "data", ".")


def read_lvbench(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    files = find_files(folder, _ANNOTATIONS, benchmark="LVBench", source=_SOURCE)
    questions = [_question(folder, row) for file in files for row in _flat(read_rows(file))]
    return Benchmark(name="lvbench", questions=tuple(questions), digest=digest_of_files(files))


def _flat(rows: list[Row]) -> Iterator[Row]:
    for row in rows:
        if not row.has("qa"):
            yield row
            continue
        asked = row.values["qa"]
        if not isinstance(asked, list):
            raise row.error("the field `qa` is no list of questions")
        for number, values in enumerate(asked, start=1):
            one = row_of(row.file, f"{row.place}, question {number}", values)
            yield replace(one, values={"key": row.values.get("key"), **one.values})


def _question(folder: Path, row: Row) -> BenchmarkQuestion:
    name = row.text(next((field for field in ("file_path", "video_path", "video") if row.has(field)), "key"))
    path = find_video([folder / place for place in _FOLDERS], name)
    return BenchmarkQuestion(
        id=f"{Path(name).stem}/{row.text('uid') if row.has('uid') else row.place}",
        video=name,
        clip=Clip(path=str(path)),
        question=row.text("question"),
        options=row.listed("options") if row.values.get("options") else (),
        answer=row.letter("answer"),
        time=row.text("time_reference") if row.has("time_reference") else "",
        groups={"category": row.texts("question_type") if row.values.get("question_type") else ("untyped",)},
    )
