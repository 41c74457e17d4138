"""Video-MME: 900 videos, 2,700 questions with four options; short, medium and long ones. Without subtitles.

The published Parquet; a video is named by its `videoID`. The options carry their letters ("A. red").
"""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_rows
from pipelines.evaluation.benchmarks.videos import find_video

_ANNOTATIONS = ("videomme/test-*.parquet", "test-*.parquet", "videomme/*.parquet", "*.parquet", "data/*.parquet")
_SOURCE = "https://huggingface.co/datasets/lmms-lab/Video-MME"
_FOLDERS = ("data", "videos", "video", ".")


def read_videomme(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    files = find_files(folder, _ANNOTATIONS, benchmark="Video-MME", source=_SOURCE)
    questions = [_question(folder, row) for file in files for row in read_rows(file)]
    return Benchmark(name="videomme", questions=tuple(questions), digest=digest_of_files(files))


def _question(folder: Path, row: Row) -> BenchmarkQuestion:
    name = row.text("videoID")
    groups = {"category": (row.text("task_type"),), "duration": (row.text("duration"),)}
    groups |= {field: (row.text(field),) for field in ("domain", "sub_category") if row.has(field)}
    return BenchmarkQuestion(
        id=row.text("question_id") if row.has("question_id") else f"{name}/{row.place}",
        video=name,
        clip=Clip(path=str(find_video([folder / place for place in _FOLDERS], name))),
        question=row.text("question"),
        options=row.listed("options"),
        answer=row.letter("answer"),
        groups=groups,
    )
