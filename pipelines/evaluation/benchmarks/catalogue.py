"""The benchmarks by name."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipelines.evaluation.benchmarks.houreval import read_houreval
from pipelines.evaluation.benchmarks.hourvideo import read_hourvideo
from pipelines.evaluation.benchmarks.longvideobench import read_longvideobench
from pipelines.evaluation.benchmarks.lvbench import read_lvbench
from pipelines.evaluation.benchmarks.mlvu import read_mlvu
from pipelines.evaluation.benchmarks.mvbench import read_mvbench
from pipelines.evaluation.benchmarks.nextqa import read_nextqa
from pipelines.evaluation.benchmarks.question import Benchmark
from pipelines.evaluation.benchmarks.videomme import read_videomme

_READERS: dict[str, Callable[[Path], Benchmark]] = {
    "lvbench": read_lvbench,
    "hourvideo": read_hourvideo,
    "houreval": read_houreval,
    "videomme": read_videomme,
    "mlvu": read_mlvu,
    "longvideobench": read_longvideobench,
    "nextqa": read_nextqa,
    "mvbench": read_mvbench,
}


def is_own(name: str) -> bool:
    """Whether `--benchmark` names a YAML file instead of a published benchmark."""
    return Path(name).suffix in {".yaml", ".yml"}


def read_benchmark(name: str, folder: Path) -> Benchmark:
    """The questions of a published benchmark. Raises ValueError for an unknown name, AnnotationError for bad files."""
    if name not in _READERS:
        close = difflib.get_close_matches(name.lower().replace("-", ""), _READERS, n=1)
        advice = f"; did you mean {close[0]}?" if close else "."
        raise ValueError(
            f"There is no benchmark {name!r}{advice} Known are {', '.join(_READERS)}; a set of your own is given as a "
            "file ending in .yaml."
        )
    return with_unique_ids(_READERS[name](folder))


def with_unique_ids(benchmark: Benchmark) -> Benchmark:
    """The second and later questions of an id carry their number: an answer belongs to one question."""
    seen: Counter[str] = Counter()
    questions = []
    for question in benchmark.questions:
        seen[question.id] += 1
        times = seen[question.id]
        questions.append(question if times == 1 else replace(question, id=f"{question.id}#{times}"))
    return replace(benchmark, questions=tuple(questions))
