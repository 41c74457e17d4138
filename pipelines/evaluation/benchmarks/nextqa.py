"""NExT-QA, multiple choice: five options a question, about clips of some 44 seconds.

`MC/test-*.parquet` as published for lmms-eval and used by the Vamba scripts, or the CSV of the original, whose videos
lie in folders that `map_vid_vidorID.json` names.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_json, read_rows
from pipelines.evaluation.benchmarks.videos import find_video

_ANNOTATIONS = ("MC/test-*.parquet", "MC/*.parquet", "test-*.parquet", "*.parquet", "test.csv", "val.csv")
_SOURCE = "https://huggingface.co/datasets/lmms-lab/NExTQA"
_FOLDERS = ("NExTVideo", "videos", "video", ".")
_FOLDER_MAP = "map_vid_vidorID.json"


def read_nextqa(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    files = find_files(folder, _ANNOTATIONS, benchmark="NExT-QA", source=_SOURCE)
    named = read_json(folder / _FOLDER_MAP) if (folder / _FOLDER_MAP).is_file() else {}
    questions = [_question(folder, row, named) for file in files for row in read_rows(file)]
    return Benchmark(name="nextqa", questions=tuple(questions), digest=digest_of_files(files))


def _question(folder: Path, row: Row, named: dict[str, str]) -> BenchmarkQuestion:
    name = row.name("video")
    options = tuple(row.text(f"a{index}") for index in range(5))
    return BenchmarkQuestion(
        id=f"{name}/{row.name('qid') if row.has('qid') else row.place}",
        video=name,
        clip=Clip(path=str(find_video([folder / place for place in _FOLDERS], named.get(name, name)))),
        question=row.text("question"),
        options=options,
        answer=row.letter_of_index("answer", options),
        groups={"category": (row.text("type") if row.has("type") else "untyped",)},
    )
