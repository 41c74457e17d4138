"""The same questions twice: in the form each benchmark is published in, and as the datasets of lmms-eval's tasks.

The tasks are the library's own, with local rows in the place of a dataset on the hub.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tests.pipelines.evaluation.benchmarks.folders import write_json, write_lines, write_parquet
from tests.pipelines.ingest.media import make_video

QUESTIONS = 12
LETTERS = "ABCD"
Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task of the library. package, file: where it stands there. metric: its score's key, `scale` times a share.

    videos: where our folder of the benchmark has them; cache: where the library looks for that folder, or the part
    of it after the colon, below HF_HOME.
    """

    package: str
    file: str
    name: str
    metric: str
    scale: int
    videos: str
    cache: str


TASKS = {
    "lvbench": Task(
        package="lvbench", file="lvbench.yaml", name="lvbench", metric="lvbench_score", scale=1,
        videos="videos", cache="lvbench",
    ),
    "videomme": Task(
        package="videomme", file="videomme.yaml", name="videomme", metric="videomme_perception_score", scale=100,
        videos="data", cache="videomme",
    ),
    "mlvu": Task(
        package="mlvu", file="mlvu_dev.yaml", name="mlvu_dev", metric="mlvu_percetion_score", scale=100,
        videos="video/4_count", cache="mlvu",
    ),
    "longvideobench": Task(
        package="longvideobench", file="longvideobench_val_v.yaml", name="longvideobench_val_v", metric="lvb_acc",
        scale=1, videos="videos", cache="datasets/longvideobench",
    ),
    "nextqa": Task(
        package="nextqa", file="nextqa_mc_test.yaml", name="nextqa_mc_test", metric="exact_match", scale=1,
        videos="NExTVideo", cache="nextqa",
    ),
    "mvbench": Task(
        package="mvbench", file="mvbench_moving_count.yaml", name="mvbench_moving_count", metric="mvbench_accuracy",
        scale=100, videos="video/clevrer/video_validation", cache="mvbench_video:video",
    ),
}  # fmt: skip


def annotate(root: Path, home: Path) -> dict[str, list[Row]]:
    """Folders of the benchmarks below `root`, HF_HOME at `home`, and the rows of each task's dataset."""
    films = [make_video(root / f"film-{n}.mp4", seconds=0.4 + 0.2 * n, fps=10, size="64x48") for n in range(2)]
    for benchmark, task in TASKS.items():
        videos = root / benchmark / task.videos
        videos.mkdir(parents=True)
        for film in films:
            (videos / film.name).symlink_to(film)
        cache, _, part = task.cache.partition(":")
        (home / cache).parent.mkdir(parents=True, exist_ok=True)
        (home / cache).symlink_to(root / benchmark / part)
    asked = [_asked(number) for number in range(QUESTIONS)]
    return {benchmark: _WRITERS[benchmark](root / benchmark, asked) for benchmark in TASKS}


def _asked(number: int) -> Row:
    film, index = f"film-{number % 2}", number * 7 % 4
    options = [f"{word} {number}" for word in ("red", "blue", "green", "grey")]
    return {"film": film, "index": index, "options": options, "question": f"What is number {number}?"}


def _listed(asked: Row) -> str:
    options = [f"({letter}) {option}" for letter, option in zip(LETTERS, asked["options"], strict=True)]
    return "\n".join([asked["question"], *options])


def _lvbench(folder: Path, questions: list[Row]) -> list[Row]:
    rows, films = [], {asked["film"]: {"key": asked["film"], "qa": []} for asked in questions}
    for number, asked in enumerate(questions):
        row = {"question": _listed(asked), "answer": LETTERS[asked["index"]]}
        films[asked["film"]]["qa"].append({**row, "uid": str(number), "question_type": ["reasoning"]})
        rows.append({**row, "video_path": f"videos/{asked['film']}.mp4"})
    write_lines(folder / "video_info.meta.jsonl", list(films.values()))
    return rows


def _videomme(folder: Path, questions: list[Row]) -> list[Row]:
    rows = [
        {
            "videoID": asked["film"], "question_id": f"q-{number}", "question": asked["question"],
            "options": [f"{a}. {option}." for a, option in zip(LETTERS, asked["options"], strict=True)],
            "answer": LETTERS[asked["index"]], "duration": ("short", "long")[number % 2], "domain": "Knowledge",
            "sub_category": "Geography", "task_type": "Counting Problem",
        }
        for number, asked in enumerate(questions)
    ]  # fmt: skip
    write_parquet(folder / "videomme" / "test-00000-of-00001.parquet", rows)
    return rows


def _mlvu(folder: Path, questions: list[Row]) -> list[Row]:
    write_json(folder / "json" / "4_count.json", [{**row, "question_type": "count"} for row in _candidates(questions)])
    return [
        {
            "question": _listed(asked), "answer": LETTERS[asked["index"]], "task_type": "count",
            "video_name": f"video/4_count/{asked['film']}.mp4",
        }
        for asked in questions
    ]  # fmt: skip


def _longvideobench(folder: Path, questions: list[Row]) -> list[Row]:
    common = [
        {
            "id": f"q-{number}", "question": asked["question"], "correct_choice": asked["index"],
            "question_category": ("S2E", "T3O")[number % 2], "duration_group": (15, 3600)[number % 3 == 0],
            "duration": 10.0, "video_path": f"{asked['film']}.mp4",
        }
        for number, asked in enumerate(questions)
    ]  # fmt: skip
    options = [asked["options"] for asked in questions]
    write_json(folder / "lvb_val.json", [{**row, "candidates": own} for row, own in zip(common, options, strict=True)])
    numbered = [{f"option{n}": option for n, option in enumerate([*own, "N/A"])} for own in options]
    return [{**row, **own} for row, own in zip(common, numbered, strict=True)]


def _nextqa(folder: Path, questions: list[Row]) -> list[Row]:
    rows = [
        {
            "video": asked["film"], "question": asked["question"], "answer": asked["index"], "qid": number,
            "type": "CW", **{f"a{n}": option for n, option in enumerate([*asked["options"], "a fifth colour"])},
        }
        for number, asked in enumerate(questions)
    ]  # fmt: skip
    write_parquet(folder / "MC" / "test-00000-of-00001.parquet", rows)
    return rows


def _mvbench(folder: Path, questions: list[Row]) -> list[Row]:
    rows = _candidates(questions)
    write_json(folder / "json" / "moving_count.json", rows)
    return rows


def _candidates(questions: list[Row]) -> list[Row]:
    return [
        {
            "video": f"{asked['film']}.mp4", "question": asked["question"], "candidates": asked["options"],
            "answer": asked["options"][asked["index"]],
        }
        for asked in questions
    ]  # fmt: skip


_WRITERS: dict[str, Callable[[Path, list[Row]], list[Row]]] = {
    "lvbench": _lvbench,
    "videomme": _videomme,
    "mlvu": _mlvu,
    "longvideobench": _longvideobench,
    "nextqa": _nextqa,
    "mvbench": _mvbench,
}


def write_tasks(folder: Path, rows: dict[str, list[Row]]) -> None:
    """Copies of the library's task files that read `rows`."""
    spec = find_spec("lmms_eval")
    assert spec is not None and spec.submodule_search_locations
    library = Path(spec.submodule_search_locations[0]) / "tasks"
    include = "include: _default_template_yaml\n"
    for benchmark, task in TASKS.items():
        place = folder / benchmark
        data = write_json(place / "rows.json", [{"id": n, **row} for n, row in enumerate(rows[benchmark])])
        (place / "utils.py").write_text(f"from lmms_eval.tasks.{task.package}.utils import *  # noqa: F403\n")
        text = (library / task.package / task.file).read_text() + "\n"
        if include in text:
            text = (library / task.package / "_default_template_yaml").read_text() + "\n" + text.replace(include, "")
        kept, skipping = [], False
        for line in text.splitlines():
            skipping = line.startswith("dataset_kwargs:") or (skipping and line.startswith(" "))
            if not skipping and not line.startswith(("dataset_", "test_split:")):
                kept.append(line)
        kept += ["dataset_path: json", "test_split: test", f"dataset_kwargs: {{data_files: {{test: {data}}}}}"]
        (place / task.file).write_text("\n".join(kept) + "\n")
