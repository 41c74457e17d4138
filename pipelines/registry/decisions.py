"""The record of a decision: what was checked, on what evidence, by which rules. Kept before anything changes.

The document lies beside the audit log under its own SHA-256, which the log's line names, and as an artifact of the MLflow
run that made the model (of a run of its own, where that is unknown). A few words of it are tags of the version, for who
looks at it in MLflow.
"""  # noqa: E501

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.registry.audit import AuditLog, actor, utc_now
from pipelines.registry.config import PromotionConfig
from pipelines.registry.tracking import experiment_id

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from pipelines.registry.outcome import PromotionOutcome

ARTIFACTS = "promotions"


def keep_decision(
    client: MlflowClient, log: AuditLog, config: PromotionConfig, outcome: PromotionOutcome, *, by: Sequence[str]
) -> str:
    """Store the evidence with the decision; returns its digest. by: who approved."""
    decided_at = utc_now()
    document = {
        "decided_at": decided_at,
        "decided_by": actor(),
        "decision": outcome.decision,
        "reason": outcome.reason,
        "model": outcome.name,
        "version": outcome.version,
        "alias": outcome.alias,
        "previous": outcome.previous,
        "checks": [asdict(check) for check in outcome.report.checks],
        "gate": asdict(config.gate),
        "evaluations": [asdict(result) for result in outcome.evaluations],
        "approved_by": list(by),
        "lineage": dict(outcome.tags),
    }
    digest = log.keep(document)
    stamp = decided_at.replace(":", "").replace("+0000", "Z")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{outcome.name}-{outcome.version}-{outcome.alias}-{stamp}.json"
        path.write_text(json.dumps(document, indent=1), encoding="utf-8")
        client.log_artifact(_run_of(client, outcome), str(path), ARTIFACTS)
    return digest


def decision_tags(outcome: PromotionOutcome, digest: str) -> dict[str, str]:
    """The newest decision about a version and an alias, as its tags."""
    prefix = f"promotion.{outcome.alias}"
    return {
        f"{prefix}.decision": outcome.decision,
        f"{prefix}.decided_at": utc_now(),
        f"{prefix}.decided_by": actor(),
        f"{prefix}.previous": outcome.previous,
        f"{prefix}.evaluations": ", ".join(outcome.report.evaluations),
        f"{prefix}.failed": ", ".join(check.name for check in outcome.report.failed),
        f"{prefix}.reason": outcome.reason,
        f"{prefix}.evidence": digest,
    }


def _run_of(client: MlflowClient, outcome: PromotionOutcome) -> str:
    """The MLflow run of the model; else one run for all decisions about the version."""
    from mlflow.exceptions import MlflowException

    run_id = outcome.tags.get("mlflow_run_id", "")
    if run_id:
        try:
            return str(client.get_run(run_id).info.run_id)
        except MlflowException:
            pass
    name = f"promotions of {outcome.name}/{outcome.version}"
    experiment = experiment_id(client)
    found = client.search_runs([experiment], f"attributes.run_name = '{name}'", max_results=1)
    if found:
        return str(found[0].info.run_id)
    made = str(client.create_run(experiment, run_name=name).info.run_id)
    client.set_terminated(made)
    return made
