"""MLVU, the seven multiple-choice tasks of its dev set: 2,174 questions about videos of 3 minutes to 2 hours.

Seven JSON files in `json/` as published; the videos of `N_task.json` lie in `video/N_task/`. The answer is the text of
an option. lmms-eval averages over tasks by the file's name, the Vamba scripts group by `question_type`.
"""

from __future__ import annotations

from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_rows
from pipelines.evaluation.benchmarks.videos import find_video

PARTS = ("1_plotQA", "2_needle", "3_ego", "4_count", "5_order", "6_anomaly_reco", "7_topic_reasoning")
_SOURCE = "https://huggingface.co/datasets/MLVU/MVLU"


def read_mlvu(folder: Path, annotations: str = "json", parts: tuple[str, ...] = PARTS) -> Benchmark:
    """Questions of the `parts` that `annotations` holds. Raises AnnotationError where it holds none."""
    places = [f"{place}[1-7]_*.json" for place in (f"{annotations}/", "")]
    found = find_files(folder, places, benchmark="MLVU", source=_SOURCE)
    files = [file for file in found if file.stem in parts]
    questions = [_question(folder, file.stem, row) for file in files for row in read_rows(file)]
    missing = tuple(part for part in parts if part not in {file.stem for file in files})
    return Benchmark(name="mlvu", questions=tuple(questions), digest=digest_of_files(files), missing_parts=missing)


def _question(folder: Path, part: str, row: Row) -> BenchmarkQuestion:
    options, name = row.listed("candidates"), row.text("video")
    folders = [folder / "video" / part, folder / "video", folder / "videos" / part, folder / "videos", folder]
    task = part.partition("_")[2]
    return BenchmarkQuestion(
        id=f"{part}/{row.place.partition(' ')[2]}",
        video=f"{part}/{name}",
        clip=Clip(path=str(find_video(folders, name))),
        question=row.text("question"),
        options=options,
        answer=row.letter_of_text("answer", options),
        groups={"category": (row.text("question_type") if row.has("question_type") else task,), "task_type": (task,)},
        published={"duration": row.seconds("duration")},
    )
