"""An evaluation on the MLflow run of the model it measured: metrics under protocol names, files, digests as tags."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.evaluation.heat_map import HEAT_MAP_NAME
from pipelines.evaluation.result import EvaluationResult

if TYPE_CHECKING:
    from mlflow import MlflowClient

_BATCH = 1000
"""Metrics that MLflow takes at once."""


def log_result(result: EvaluationResult, answers: Path) -> str:
    """Record `result` and return the MLflow run's id: the model's own run where it is known, a new one otherwise.

    Raises ConnectionError when MLflow can't be reached; the answers are on disk by then, and the same command finishes.
    """
    from mlflow.entities import Metric
    from mlflow.utils.time import get_current_time_millis

    from pipelines.registry.tracking import experiment_id, open_client

    client = open_client()
    run_id = result.lineage.get("mlflow_run_id", "")
    created = not _exists(client, run_id)
    if created:
        run_id = client.create_run(experiment_id(client), run_name=result.name).info.run_id
    now = get_current_time_millis()
    metrics = [Metric(name, value, now, 0) for name, value in result.metrics().items()]
    for start in range(0, len(metrics), _BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _BATCH])
    client.set_tag(run_id, f"evaluation.{result.name}.manifest_digest", result.manifest_digest)
    client.set_tag(run_id, f"evaluation.{result.name}.model_digest", result.model_digest)
    with tempfile.TemporaryDirectory() as folder:
        copy = replace(result, mlflow_run_id=run_id, directory=folder).write()
        client.log_artifact(run_id, str(copy), f"evaluations/{result.name}")
    if answers.is_file():  # not where every video is broken
        client.log_artifact(run_id, str(answers), f"evaluations/{result.name}")
    heat_map = Path(result.directory) / HEAT_MAP_NAME
    if heat_map.exists():
        client.log_artifact(run_id, str(heat_map), f"evaluations/{result.name}")
    if created:
        client.set_terminated(run_id)
    return str(run_id)


def _exists(client: MlflowClient, run_id: str) -> bool:
    from mlflow.exceptions import MlflowException

    if not run_id:
        return False
    try:
        client.get_run(run_id)
    except MlflowException:
        return False
    return True
