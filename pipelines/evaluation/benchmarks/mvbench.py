"""MVBench: 20 tasks of 200 questions about clips of 5 to 35 seconds from other datasets.

`json/TASK.json` as published; each task's videos lie in a folder of its own below `video/`. Five tasks name the part of
the video that is shown; those whose folder holds parts cut out already (`…_segment`) are shown whole. Episodic
reasoning has folders of pictures, three for each second.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion, Clip
from pipelines.evaluation.benchmarks.rows import Row, digest_of_files, find_files, read_rows
from pipelines.evaluation.benchmarks.videos import check_name, find_video

_ANNOTATIONS = ("json/*.json", "*.json")
_SOURCE = "https://huggingface.co/datasets/OpenGVLab/MVBench"
_PICTURES_PER_S = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """folder: of whole videos. cut: of parts cut out already. other: a second name. pictures: folders of pictures."""

    folder: str
    cut: str = ""
    other: str = ""
    pictures: bool = False


_STAR = _Task(folder="star/Charades_v1_480", cut="star/Charades_segment")
_CLEVRER = _Task(folder="clevrer/video_validation")
_PERCEPTION = _Task(folder="perception/videos")
_TASKS = {
    "action_antonym": _Task(folder="ssv2_video", other="ssv2_video_mp4"),
    "action_count": _PERCEPTION,
    "action_localization": _Task(folder="sta/sta_video", cut="sta/sta_video_segment"),
    "action_prediction": _STAR,
    "action_sequence": _STAR,
    "character_order": _PERCEPTION,
    "counterfactual_inference": _CLEVRER,
    "egocentric_navigation": _Task(folder="vlnqa"),
    "episodic_reasoning": _Task(folder="tvqa/frames_fps3_hq", cut="tvqa/video_fps3_hq_segment", pictures=True),
    "fine_grained_action": _Task(folder="Moments_in_Time_Raw/videos"),
    "fine_grained_pose": _Task(folder="nturgbd", other="nturgbd_convert"),
    "moving_attribute": _CLEVRER,
    "moving_count": _CLEVRER,
    "moving_direction": _CLEVRER,
    "object_existence": _CLEVRER,
    "object_interaction": _STAR,
    "object_shuffle": _PERCEPTION,
    "scene_transition": _Task(folder="scene_qa/video"),
    "state_change": _PERCEPTION,
    "unexpected_action": _Task(folder="FunQA_test/test"),
}


def read_mvbench(folder: Path) -> Benchmark:
    """Questions of the tasks that the folder holds. Raises AnnotationError where it holds none."""
    found = find_files(folder, _ANNOTATIONS, benchmark="MVBench", source=_SOURCE)
    files = [file for file in found if file.stem in _TASKS]
    questions = [_question(folder, file.stem, row) for file in files for row in read_rows(file)]
    missing = tuple(sorted(set(_TASKS) - {file.stem for file in files}))
    return Benchmark(name="mvbench", questions=tuple(questions), digest=digest_of_files(files), missing_parts=missing)


def _question(folder: Path, task: str, row: Row) -> BenchmarkQuestion:
    options, name = row.listed("candidates"), row.text("video")
    clip = _clip(folder, _TASKS[task], row, name)
    return BenchmarkQuestion(
        id=f"{task}/{row.place.partition(' ')[2]}",
        video=f"{_TASKS[task].folder}/{name}",
        clip=clip,
        question=row.text("question"),
        options=options,
        answer=row.letter_of_text("answer", options),
        groups={"category": (task,)},
    )


def _clip(folder: Path, task: _Task, row: Row, name: str) -> Clip:
    start_s, end_s = (row.seconds("start"), row.seconds("end")) if task.cut else (None, None)
    if task.pictures:
        check_name(name)
        whole = next((place / name for place in _places(folder, task.folder) if (place / name).is_dir()), None)
        first = whole or next(_places(folder, task.folder)) / name
        clip = Clip(path=str(first), pictures_per_s=_PICTURES_PER_S, start_s=start_s, end_s=end_s)
    else:
        places = [place for one in (task.folder, task.other) if one for place in _places(folder, one)]
        clip = Clip(path=str(find_video(places, name)), start_s=start_s, end_s=end_s)
    if task.cut and not clip.exists:
        cut = Clip(path=str(find_video(_places(folder, task.cut), name)))
        return cut if cut.exists else clip
    return clip


def _places(folder: Path, below: str) -> Iterator[Path]:
    """Where a task's folder may be; the archive `data0613` brings some videos of its own."""
    yield folder / "video" / below
    yield folder / "video" / "data0613" / below
    yield folder / below
