"""Promotion: judge a version, move the alias or refuse, and record the decision either way.

    run ──register──> version ──judge──> GateReport ──passed──> alias moved
                                                    └─ either ─> decision: version tags, MLflow artifact,
                                                    promotions.jsonl

MLflow keeps no history of an alias, so the decision record is where the previous holder is written down. Promoting the
version that holds the alias already changes nothing.
"""

from __future__ import annotations

import getpass
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.evaluation.result import EvaluationResult, evaluations_directory, find_results, read_result
from pipelines.registry.config import PromotionConfig
from pipelines.registry.gate import GateReport, judge
from pipelines.registry.lineage import build_lineage
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import ModelNotFoundError, parse_version, resolve_model, version_directory
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client
from pipelines.storage import vamba_home

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOG_NAME = "promotions.jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionOutcome:
    """What was decided. version is "" in a dry run of a run that is not registered yet.

    moved: the alias points at this version now, and did not before. previous: the version that held it, or "".
    """

    name: str
    version: str
    alias: str
    passed: bool
    moved: bool
    previous: str
    report: GateReport
    tags: Mapping[str, str]
    evaluations: tuple[EvaluationResult, ...]
    directory: str

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Candidate:
    """A model to be judged: `version` is "" before registration."""

    name: str
    version: str
    directory: Path
    tags: Mapping[str, str]


def promote(config: PromotionConfig, *, dry_run: bool = False) -> PromotionOutcome:
    """Judge `config.target` and move the alias if everything holds. `dry_run` judges and touches nothing.

    Raises ModelNotFoundError for a target that does not exist, ValueError for a run without a name to register it as.
    """
    client = open_client()
    candidate = _candidate(client, config, dry_run=dry_run)
    previous = _holder(client, candidate.name, config.alias)
    evaluations = _evidence(config, candidate)
    report = judge(candidate.directory, candidate.tags, evaluations, config.gate)
    moves = report.passed and previous != candidate.version
    outcome = PromotionOutcome(
        name=candidate.name,
        version=candidate.version,
        alias=config.alias,
        passed=report.passed,
        moved=moves and not dry_run,
        previous=previous,
        report=report,
        tags=candidate.tags,
        evaluations=tuple(result for result in evaluations if result.name in report.evaluations),
        directory=str(candidate.directory),
    )
    if not dry_run and (moves or not report.passed):
        if moves:
            client.set_registered_model_alias(candidate.name, config.alias, candidate.version)
        _record(client, config, outcome)
    return outcome


def _candidate(client: MlflowClient, config: PromotionConfig, *, dry_run: bool) -> _Candidate:
    ref = _version_ref(config.target)
    if ref is None and dry_run:
        if not config.register_as:
            raise ValueError(_no_name(config.target))
        directory = resolve_model(config.target).directory
        tags = build_lineage(directory.parent, hash_model_files(directory)).tags
        return _Candidate(name=config.register_as, version="", directory=directory, tags=tags)
    if ref is None:
        if not config.register_as:
            raise ValueError(_no_name(config.target))
        made = register_model(config.target, config.register_as)
        return _Candidate(
            name=made.name, version=made.version, directory=version_directory(made.source), tags=made.tags
        )
    name, number = ref
    version = _version(client, name, number)
    directory = version_directory(str(version.source))
    return _Candidate(name=name, version=number, directory=directory, tags=dict(version.tags))


def _version_ref(target: str) -> tuple[str, str] | None:
    """(name, version) of `NAME/VERSION` or `models:/NAME/VERSION`; None for a run or a directory."""
    uri = target if target.startswith("models:") else f"models:/{target}"
    parsed = parse_version(uri)
    if target.startswith("models:") and (parsed is None or parsed[1] is None):
        raise ValueError(f"{target!r} names no version: write NAME/VERSION or models:/NAME/VERSION.")
    if parsed is None or parsed[1] is None or Path(target).exists():
        return None
    return parsed[0], parsed[1]


def _version(client: MlflowClient, name: str, number: str) -> Any:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version(name, number)
    except MlflowException as error:
        raise ModelNotFoundError(
            f"There is no version {number} of {name!r} in the registry. `vamba models ls` lists what is there."
        ) from error


def _no_name(target: str) -> str:
    return (
        f"{target!r} is a run, not a registered version: name the model it becomes a version of with --as "
        "NAME, or give a version as NAME/VERSION."
    )


def _holder(client: MlflowClient, name: str, alias: str) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_model_version_by_alias(name, alias).version)
    except MlflowException:
        return ""


def _evidence(config: PromotionConfig, candidate: _Candidate) -> list[EvaluationResult]:
    """The evaluations to judge by, newest first: those named, else all of exactly this model."""
    digest = candidate.tags.get("model_digest", "")
    if not config.evaluations:
        return find_results(model_digest=digest)
    results = []
    for name in config.evaluations:
        path = evaluations_directory() / name
        if not path.is_dir():
            raise ValueError(f"There is no evaluation {name!r} in {evaluations_directory()}.")
        result = read_result(path)
        if result.model_digest != digest:
            raise ValueError(
                f"The evaluation {name!r} is of another model ({result.model}, {result.model_digest[:19]}…) than "
                f"{config.target} ({digest[:19]}…): evaluate the model that is to be promoted."
            )
        results.append(result)
    return sorted(results, key=lambda result: result.created_at, reverse=True)


def _record(client: MlflowClient, config: PromotionConfig, outcome: PromotionOutcome) -> None:
    """The decision as version tags, as an artifact of the run, and as a line of the promotions log."""
    decided_at = datetime.now(UTC).isoformat(timespec="seconds")
    decision = {
        "decided_at": decided_at,
        "decided_by": _user(),
        "decision": "promoted" if outcome.moved else "refused",
        "model": outcome.name,
        "version": outcome.version,
        "alias": outcome.alias,
        "previous": outcome.previous,
        "checks": [asdict(check) for check in outcome.report.checks],
        "gate": asdict(config.gate),
        "evaluations": [asdict(result) for result in outcome.evaluations],
        "lineage": dict(outcome.tags),
    }
    prefix = f"promotion.{outcome.alias}"
    for key, value in (
        ("decision", decision["decision"]),
        ("decided_at", decided_at),
        ("previous", outcome.previous),
        ("evaluations", ", ".join(outcome.report.evaluations)),
        ("failed", ", ".join(check.name for check in outcome.report.failed)),
    ):
        client.set_model_version_tag(outcome.name, outcome.version, f"{prefix}.{key}", str(value))
    run_id = outcome.tags.get("mlflow_run_id")
    if run_id:
        with tempfile.TemporaryDirectory() as folder:
            stamp = decided_at.replace(":", "").replace("+0000", "Z")
            path = Path(folder) / f"{outcome.name}-{outcome.version}-{outcome.alias}-{stamp}.json"
            path.write_text(json.dumps(decision, indent=1), encoding="utf-8")
            client.log_artifact(run_id, str(path), "promotions")
    _append(vamba_home() / LOG_NAME, decision)


def _append(path: Path, record: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        # A container may run under a user id that has no name.
        return str(os.getuid())
