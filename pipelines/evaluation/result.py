"""The outcome of an evaluation, and its file `evaluation.json`: the evidence that gates judge and reports draw.

{vamba_home}/evaluations/{name}/
    identity.json     what is evaluated: digests of model and data, protocol, split, control
    questions.jsonl   what is asked, and about which frames
    answers.jsonl     one line per question, as they come
    predictions.json  for HourVideo's scorer
    evaluation.json   the result, written last
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipelines.evaluation.protocols.recipe import Scoring
from pipelines.evaluation.questions import BrokenVideo
from pipelines.evaluation.results import Tally, flat_metrics, metric_part
from pipelines.storage import open_storage, vamba_home

RESULT_NAME = "evaluation.json"
IDENTITY_NAME = "identity.json"
ANSWERS_NAME = "answers.jsonl"
PREDICTIONS_NAME = "predictions.json"
FORMAT_VERSION = 1


class ResultFormatError(ValueError):
    """A result file that this version can't read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResult:
    """One finished evaluation.

    control: "shuffled-video" or "". chance: expected accuracy of guessing, None where no options are listed.
    num_questions: asked for; coverage: answered / asked for. overall: None when nothing could be answered.
    by_category, by_length: groups of `overall`; lengths from short to long. broken: videos that could not be read.
    subset: not every question of the split was asked. created_at: UTC, ISO 8601. seconds: of the last attempt.
    backends: what the model ran on in that attempt, a line per kind of machine.
    by_group: of a benchmark, its other groupings by name. micro, macro: the share of right answers, and the mean of the
    groups' shares; `overall` has the one that the protocol takes. settings: tokens, and of a benchmark the frames.
    missing_parts: annotation files that a benchmark's folder lacks. frame_cache: {"hit", "miss": videos}, of the last
    attempt. scoring: which mean is `overall`, and of what.
    """

    name: str
    protocol: str
    dataset: str
    split: str
    control: str
    model: str
    model_digest: str
    manifest_digest: str
    lineage: Mapping[str, str]
    num_questions: int
    coverage: float
    chance: float | None
    overall: Tally | None
    by_category: Mapping[str, Tally]
    by_length: Mapping[str, Tally]
    broken: tuple[BrokenVideo, ...]
    subset: bool
    created_at: str
    seconds: float
    directory: str
    mlflow_run_id: str = ""
    backends: tuple[str, ...] = ()
    by_group: Mapping[str, Mapping[str, Tally]] = field(default_factory=dict)
    micro: float | None = None
    macro: float | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    missing_parts: tuple[str, ...] = ()
    scoring: Scoring = field(default_factory=Scoring)
    frame_cache: Mapping[str, int] = field(default_factory=dict)

    @property
    def metric_prefix(self) -> str:
        """`eval/PROTOCOL/DATASET`, plus the control's name: results of different kinds never share a metric."""
        control = f"/{self.control}" if self.control else ""
        split = "" if self.split == "test" else f"/{self.split}"
        return f"eval/{self.protocol}/{metric_part(self.dataset)}{split}{control}"

    @property
    def is_benchmark(self) -> bool:
        """Whether the questions are a benchmark's, whose frames the protocol chooses, and not an ingested dataset's."""
        return "num_frames" in self.settings

    def groups(self) -> dict[str, Tally]:
        """Every group by the name that gates use: `overall`, `category/NAME`, `length/LABEL`, `GROUPING/NAME`."""
        overall = {"overall": self.overall} if self.overall else {}
        categories = {f"category/{name}": numbers for name, numbers in self.by_category.items()}
        lengths = {f"length/{name}": numbers for name, numbers in self.by_length.items()}
        others = {
            f"{group}/{name}": numbers for group, found in self.by_group.items() for name, numbers in found.items()
        }
        return {**overall, **categories, **lengths, **others}

    def metrics(self) -> dict[str, float]:
        """All numbers under their full metric names."""
        prefix = self.metric_prefix
        unparsed = self.overall.num_unparsed if self.overall else 0
        extra = {f"{prefix}/coverage": self.coverage, f"{prefix}/num_unparsed": float(unparsed)}
        means = {f"{prefix}/{name}": mean for name in ("micro", "macro") if (mean := getattr(self, name)) is not None}
        return {**flat_metrics(prefix, self.groups()), **extra, **means}

    def write(self) -> Path:
        """Write `evaluation.json` atomically into the result's directory."""
        document = {"format_version": FORMAT_VERSION, **asdict(self), "metrics": self.metrics()}
        open_storage(self.directory).write_atomic(RESULT_NAME, json.dumps(document, indent=1).encode())
        return Path(self.directory) / RESULT_NAME


def read_result(path: Path) -> EvaluationResult:
    """Read an `evaluation.json`, or the one in a directory; its `directory` is where it lies now.

    Raises FileNotFoundError or `ResultFormatError`.
    """
    file = path / RESULT_NAME if path.is_dir() else path
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if document.pop("format_version", None) != FORMAT_VERSION:
            raise ResultFormatError(
                f"{file} is no evaluation result of format {FORMAT_VERSION}: evaluate again with this version."
            )
        return _from_document({**document, "directory": str(file.parent.absolute())})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        if isinstance(error, ResultFormatError):
            raise
        raise ResultFormatError(
            f"{file} can't be read as an evaluation result ({type(error).__name__}: {error}): run the same `vamba "
            "evaluate` again, which makes it anew of the answers beside it."
        ) from error


def _from_document(document: dict[str, Any]) -> EvaluationResult:
    document.pop("metrics", None)
    for name in ("by_category", "by_length"):
        document[name] = {key: Tally(**numbers) for key, numbers in document[name].items()}
    document["by_group"] = {
        group: {name: Tally(**numbers) for name, numbers in found.items()}
        for group, found in document.get("by_group", {}).items()
    }
    document["missing_parts"] = tuple(document.get("missing_parts", ()))
    document["overall"] = Tally(**document["overall"]) if document["overall"] else None
    document["backends"] = tuple(document.get("backends", ()))
    document["scoring"] = _scoring(document.get("scoring", {}))
    document["broken"] = tuple(BrokenVideo(**item) for item in document["broken"])
    return EvaluationResult(**document)


def _scoring(values: Mapping[str, Any]) -> Scoring:
    return Scoring(**{**values, "macro_of": tuple(values.get("macro_of", ()))})


def evaluations_directory() -> Path:
    """Where evaluations are kept."""
    return vamba_home() / "evaluations"


def find_results(*, model_digest: str) -> list[EvaluationResult]:
    """All finished evaluations of exactly this model, newest first. Files of other formats are passed over."""
    found = []
    for path in evaluations_directory().glob(f"*/{RESULT_NAME}"):
        try:
            result = read_result(path)
        except ResultFormatError:
            continue
        if result.model_digest == model_digest:
            found.append(result)
    return sorted(found, key=lambda result: result.created_at, reverse=True)
