"""LongVideoBench, validation: 1,337 questions with up to five options, about videos of 8 seconds to an hour.

`lvb_val.json` as published, or the Parquet of its repository (`option0` … `option4`, "N/A" where there are fewer).
Without subtitles.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_rows
from pipelines.evaluation.benchmarks.videos import find_video

_ANNOTATIONS = ("lvb_val.json", "validation-*.parquet", "*.json", "*.parquet")
_SOURCE = "https://huggingface.co/datasets/longvideobench/LongVideoBench"
_FOLDERS = ("videos", "video", ".")


def read_longvideobench(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    files = find_files(folder, _ANNOTATIONS, benchmark="LongVideoBench", source=_SOURCE)
    questions = [_question(folder, row) for file in files for row in read_rows(file)]
    return Benchmark(name="longvideobench", questions=tuple(questions), digest=digest_of_files(files))


def _question(folder: Path, row: Row) -> BenchmarkQuestion:
    name, options = row.text("video_path"), _options(row)
    is_secret = not row.says("correct_choice") or row.whole("correct_choice") == -1
    groups = {"category": (row.text("question_category"),)}
    groups |= {field: (row.text(field),) for field in ("duration_group", "topic_category") if row.has(field)}
    return BenchmarkQuestion(
        id=row.text("id") if row.has("id") else f"{Path(name).stem}/{row.place}",
        video=name,
        clip=Clip(path=str(find_video([folder / place for place in _FOLDERS], name))),
        question=row.text("question"),
        options=options,
        answer="" if is_secret else row.letter_of_index("correct_choice", options),
        groups=groups,
        published={"duration": row.seconds("duration")},
    )


def _options(row: Row) -> tuple[str, ...]:
    if row.has("candidates"):
        return row.listed("candidates")
    named = [row.text(f"option{index}") for index in range(5) if row.has(f"option{index}")]
    if not named:
        return row.listed("candidates")
    return tuple(option for option in named if option != "N/A")
