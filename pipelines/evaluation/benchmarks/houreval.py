"""HourEval: the questions of Video-MME, MLVU and LongVideoBench about videos of half an hour and more.

One folder with a folder for each part, laid out as that benchmark is. Shorter ones are left out where annotations say
so; MLVU's `filtered_json/` is taken as it is. Each part is asked with its own prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipelines.evaluation.benchmarks.longvideobench import read_longvideobench
from pipelines.evaluation.benchmarks.mlvu import read_mlvu
from pipelines.evaluation.benchmarks.question import Benchmark, BenchmarkQuestion
from pipelines.evaluation.benchmarks.rows import AnnotationError
from pipelines.evaluation.benchmarks.videomme import read_videomme
from vamba.data.manifest import digest_of

_LEAST_S = 1800.0
_FILTERED = "filtered_json"
_FILTERED_PARTS = ("2_needle", "4_count", "5_order", "6_anomaly_reco")
_FOLDERS = {
    "videomme": ("videomme", "Video-MME", "VideoMME"),
    "mlvu": ("MLVU/MLVU", "mlvu", "MLVU"),
    "longvideobench": ("longvideobench", "LongVideoBench"),
}


def read_houreval(folder: Path) -> Benchmark:
    """Raises AnnotationError."""
    parts = [_part(folder, part) for part in _FOLDERS]
    return Benchmark(
        name="houreval",
        questions=tuple(question for part in parts for question in part.questions),
        digest=digest_of([part.digest for part in parts]),
        missing_parts=tuple(f"{part.name}: {missing}" for part in parts for missing in part.missing_parts),
    )


def _part(folder: Path, part: str) -> Benchmark:
    found = next((folder / name for name in _FOLDERS[part] if (folder / name).is_dir()), None)
    if found is None:
        raise AnnotationError(
            f"{folder} has no folder for {part}: HourEval needs {', '.join(names[0] for names in _FOLDERS.values())}, "
            "each laid out as that benchmark is."
        )
    whole = _readers()[part](found)
    kept = [_as_part(question, part) for question in whole.questions if _is_long(question)]
    return replace(whole, questions=tuple(kept))


def _readers() -> dict[str, Callable[[Path], Benchmark]]:
    return {"videomme": read_videomme, "mlvu": _read_mlvu, "longvideobench": read_longvideobench}


def _read_mlvu(folder: Path) -> Benchmark:
    if (folder / _FILTERED).is_dir():
        filtered = read_mlvu(folder, annotations=_FILTERED, parts=_FILTERED_PARTS)
        taken = tuple(replace(question, published={}) for question in filtered.questions)
        return replace(filtered, questions=taken)
    return read_mlvu(folder)


def _is_long(question: BenchmarkQuestion) -> bool:
    """False only where the annotations say that the video is shorter; Video-MME's "long" begins at half an hour."""
    seconds = question.published.get("duration")
    label = question.groups.get("duration", ("long",))[0]
    return label == "long" and (seconds is None or seconds >= _LEAST_S)


def _as_part(question: BenchmarkQuestion, part: str) -> BenchmarkQuestion:
    return replace(
        question,
        id=f"{part}/{question.id}",
        video=f"{part}/{question.video}",
        groups={"category": (part,)},
        part=part,
        published={},
    )
