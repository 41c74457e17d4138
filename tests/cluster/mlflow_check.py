"""What MLflow has of a run, read from its database: one run for all attempts, and every point once."""

from __future__ import annotations

import json
from collections.abc import Mapping

from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.services.postgresql import PostgreSQL


def check_tracking(database: PostgreSQL, directory: RunDirectory) -> int:
    """How many attempts the one MLflow run has. Raises AssertionError where anything is missing or doubled."""
    found = database.rows("SELECT run_uuid, status FROM runs WHERE name = %s", directory.name)
    assert len(found) == 1, f"MLflow has {len(found)} runs of the name {directory.name}"
    ((run, status),) = found
    assert run == directory.read_run()["mlflow_run_id"] and status == "FINISHED", (run, status)
    points = database.rows("SELECT step, value FROM metrics WHERE run_uuid = %s AND key = 'loss' ORDER BY step", run)
    # Of a step that was trained again, MLflow has what it was first told, and at the end the records agree.
    losses: dict[int, list[float]] = {}
    for _, record in directory.read_metrics():
        losses.setdefault(record["step"], []).append(record["loss"])
    assert [step for step, _ in points] == sorted(losses), "steps are missing in MLflow, or there twice"
    assert all(value in losses[step] for step, value in points), "MLflow has other losses than the run"
    tags: Mapping[str, str] = dict(database.rows("SELECT key, value FROM tags WHERE run_uuid = %s", run))
    told = [json.loads(value) for key, value in sorted(tags.items()) if key.startswith("vamba.attempt.")]
    attempts = read_attempts(directory)
    assert [each["from_step"] for each in told] == [attempt.resumed_from_step for attempt in attempts], told
    assert [each["workers"] for each in told] == [attempt.world_size for attempt in attempts], told
    return len(told)
