"""What every reader of a benchmark gives: questions, each about a clip that lies on a disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Clip:
    """What is shown with a question.

    path: of a video file, or of a folder of pictures. pictures_per_s: of a folder; 0 for a file.
    start_s, end_s: the part that is shown, None for all of it.
    """

    path: str
    pictures_per_s: float = 0.0
    start_s: float | None = None
    end_s: float | None = None

    @property
    def exists(self) -> bool:
        path = Path(self.path)
        return path.is_dir() if self.pictures_per_s else path.is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchmarkQuestion:
    """One multiple-choice question as published.

    id: unique in the benchmark. video: what it is about; questions about one video are not independent.
    options: as the annotations have them; empty where the question's text lists them. answer: the right letter, ""
    where it is not published. groups: the values of each grouping, "category" being the main one. part: whose prompt
    is used, in a benchmark made of others. time: that is asked about, "" where that is not published.
    published: the annotations' own fields, where a file goes back.
    """

    id: str
    video: str
    clip: Clip
    question: str
    options: tuple[str, ...]
    answer: str
    groups: Mapping[str, tuple[str, ...]]
    part: str = ""
    time: str = ""
    published: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """All questions of a benchmark.

    name: as metrics carry it. digest: "sha256:…" of the annotation files, and of how an own set's are read.
    missing_parts: annotation files that the published benchmark has and the folder lacks; with any, a result is one of
    a subset.
    """

    name: str
    questions: tuple[BenchmarkQuestion, ...]
    digest: str
    missing_parts: tuple[str, ...] = ()
