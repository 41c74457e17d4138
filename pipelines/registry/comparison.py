"""Two versions side by side: where they came from, which files differ, and what was measured of each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.evaluation.result import find_results
from pipelines.registry.lineage import FILES_TAG
from pipelines.registry.model_files import differing_files
from pipelines.registry.models import ResolvedModel, resolve_model


@dataclass(frozen=True, slots=True, kw_only=True)
class VersionComparison:
    """first, second: NAME/VERSION. tags: those that differ, (first, second). files: one sentence for each that differs.

    metrics: accuracies measured of both by the same metric on the same data, (first, second).
    """

    first: str
    second: str
    tags: Mapping[str, tuple[str, str]]
    files: tuple[str, ...]
    metrics: Mapping[str, tuple[float, float]]


def compare_versions(first: str, second: str) -> VersionComparison:
    """Compare two versions by what the registry and the evaluations here know of them. Raises ModelNotFoundError."""
    a, b = (resolve_model(ref if ref.startswith("models:") else f"models:/{ref}") for ref in (first, second))
    skipped = {FILES_TAG, "name", "version"}
    keys = sorted({key for key in (*a.lineage, *b.lineage) if key not in skipped and not key.startswith("promotion.")})
    tags = {key: (a.lineage.get(key, ""), b.lineage.get(key, "")) for key in keys}
    files_a, files_b = (json.loads(model.lineage.get(FILES_TAG, "{}")) for model in (a, b))
    measured_a, measured_b = accuracies(a), accuracies(b)
    return VersionComparison(
        first=_label(a),
        second=_label(b),
        tags={key: pair for key, pair in tags.items() if pair[0] != pair[1]},
        files=tuple(differing_files(files_a, files_b)),
        metrics={key: (measured_a[key], measured_b[key]) for key in measured_a if key in measured_b},
    )


def accuracies(model: ResolvedModel) -> dict[str, float]:
    """{metric, with the protocol, data set and its digest in the name: accuracy}, of the newest evaluations."""
    found: dict[str, float] = {}
    for result in find_results(model_digest=model.lineage.get("model_digest", "")):
        if result.subset:
            continue
        data = result.manifest_digest.removeprefix("sha256:")[:8]
        for group, numbers in result.groups().items():
            found.setdefault(f"{result.metric_prefix}/{group} ({data})", numbers.accuracy)
    return found


def _label(model: ResolvedModel) -> str:
    return f"{model.lineage['name']}/{model.lineage['version']}"
