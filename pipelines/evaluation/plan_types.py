"""What an evaluation will do, known before a model is loaded: which videos are shown, and what is asked about each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.evaluation.benchmarks.question import Benchmark
from pipelines.evaluation.clips import ShownClip
from pipelines.evaluation.protocols.recipe import Recipe
from pipelines.evaluation.questions import BrokenVideo, Question
from pipelines.registry.models import ResolvedModel
from vamba.data.manifest import SampleRow

MISSING = "there is no such file"
"""Why a video is listed as broken that a benchmark's folder does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Showing:
    """A video (a dataset's sample, or a benchmark's clip) and every question that is asked while it is shown."""

    source: SampleRow | ShownClip
    questions: tuple[Question, ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationPlan:
    """All that will be asked. identity: what the answers depend on; equal identities may share an answer file.

    recipe: how it is asked and scored. dataset: as metric names carry it. benchmark: None for an ingested dataset.
    settings: tokens, and of a benchmark the frames. is_subset: not every question there is.
    """

    name: str
    directory: Path
    identity: Mapping[str, object]
    model: ResolvedModel
    model_digest: str
    manifest_digest: str
    showings: tuple[Showing, ...]
    broken: tuple[BrokenVideo, ...]
    recipe: Recipe
    dataset: str
    is_subset: bool
    benchmark: Benchmark | None = None
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def questions(self) -> list[Question]:
        return [question for showing in self.showings for question in showing.questions]

    @property
    def num_questions(self) -> int:
        """Asked for, those of unreadable videos included."""
        return len(self.questions) + sum(video.num_questions for video in self.broken)


def plan_name(model: str, what: str, identity: Mapping[str, object]) -> str:
    """The name that an evaluation gets when none is given: the same for the same identity."""
    label = "".join(character if character.isalnum() else "-" for character in model.rstrip("/").rsplit("/", 1)[-1])
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:8]
    safe = "".join(character if character.isalnum() or character in "-_." else "-" for character in what)
    return f"{label.strip('-').lower() or 'model'}-{safe}-{digest}"
