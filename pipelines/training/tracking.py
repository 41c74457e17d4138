"""MLflow, fed from the run directory: training writes files, a thread of the driver sends what they say.

    metrics/attempt-*.jsonl ── follow ──> steps not sent yet ── log_batch ──> one MLflow run for all attempts of the run

Nothing in training waits for MLflow, and nothing is lost while it is away: the files are the buffer, and what has been
sent is asked of MLflow itself. A replayed step equals the one already sent, so every step is sent once.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import MetricsFollower, RunDirectory, flatten
from vamba.ops.backends import Backends, describe

if TYPE_CHECKING:
    from mlflow import MlflowClient

MAX_METRICS_PER_BATCH = 900
MAX_PARAMS_PER_BATCH = 100
RETRY_S = 10.0
_STATUS = {"finished": "FINISHED", "preempted": "SCHEDULED", "failed": "FAILED"}


class Tracker:
    """Follows one run directory into MLflow on a thread of its own."""

    def __init__(self, config: TrainingConfig, directory: RunDirectory, notice: Callable[[str], None]) -> None:
        self._config, self._directory, self._notice = config, directory, notice
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._sent_step = 0
        self._follower = MetricsFollower(directory)
        self._unsent_records: list[dict[str, Any]] = []
        self._closing = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._follow, name="mlflow-tracker", daemon=True)
        if config.tracking.enabled:
            self._thread.start()

    def close(self, status: str, *, timeout_s: float = 60.0) -> None:
        """Send what is left and end the MLflow run as "finished", "preempted" or "failed"."""
        if not self._config.tracking.enabled:
            return
        self._closing.set()
        self._thread.join(timeout=timeout_s)
        if self._thread.is_alive() or not self._attempt(self._flush):
            self._notice(
                f"MLflow has the run up to step {self._sent_step}; the rest is in {self._directory.metrics}, "
                "and is sent when the same command runs again."
            )
        elif self._client is not None:
            client = self._client
            self._attempt(lambda: client.set_terminated(self._run_id, status=_STATUS[status]))

    def _follow(self) -> None:
        while not self._closing.is_set():
            sent = self._attempt(self._flush)
            self._closing.wait(self._config.tracking.flush_every_s if sent else RETRY_S)

    def _attempt(self, action: Callable[[], Any]) -> bool:
        """Whether `action` succeeded. What a tracking server does must not reach training: all is caught here."""
        try:
            action()
        except Exception as error:
            if not self._away:
                self._notice(f"MLflow can't be reached ({' '.join(str(error).split())[:200]}); training goes on.")
            self._away = True
            return False
        if self._away:
            self._notice("MLflow is back.")
        self._away = False
        return True

    def _flush(self) -> None:
        if self._client is None:
            # Importing MLflow takes seconds of this process, which has workers to start first.
            if not any(self._unsent()) and not self._closing.is_set():
                return
            self._client = self._open()
        from mlflow.entities import Metric

        pending: list[Metric] = []
        newest = self._sent_step
        for record in list(self._unsent()):
            timestamp_ms = int(record["time"] * 1000)
            pending += [Metric(key, value, timestamp_ms, record["step"]) for key, value in metrics_of(record).items()]
            newest = record["step"]
            if len(pending) > MAX_METRICS_PER_BATCH:
                self._send(self._client, pending, newest)
                pending = []
        self._send(self._client, pending, newest)

    def _send(self, client: MlflowClient, pending: list[Any], newest: int) -> None:
        if pending:
            client.log_batch(self._run_id, metrics=pending)
        self._sent_step = newest
        self._unsent_records = [record for record in self._unsent_records if record["step"] > newest]

    def _unsent(self) -> Iterator[dict[str, Any]]:
        self._unsent_records += [record for _, record in self._follower.read_new()]
        newest = self._sent_step
        for record in self._unsent_records:
            if record["step"] == newest + 1:
                newest += 1
                yield record

    def _open(self) -> MlflowClient:
        from pipelines.registry.tracking import experiment_id, open_client

        client = open_client()
        known = self._directory.read_run().get("mlflow_run_id")
        if known:
            self._run_id = known
            client.update_run(known, status="RUNNING")
            self._sent_step = max((point.step for point in client.get_metric_history(known, "loss")), default=0)
        else:
            self._run_id = self._create(client, experiment_id(client, self._config.tracking.experiment))
            self._directory.update_run(mlflow_run_id=self._run_id)
        backends = Backends(**self._directory.read_run().get("backends", {}))
        client.set_tag(self._run_id, "vamba.backends", describe(backends))
        return client

    def _create(self, client: MlflowClient, experiment: str) -> str:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param

        record = self._directory.read_run()
        tags: dict[str, str] = {
            key: str(record[key]) for key in ("config_digest", "data_digest", "git_dirty") if key in record
        }
        tags |= {"vamba.run_directory": str(self._directory.root), "vamba.recipe": self._config.recipe}
        if record.get("git_commit"):
            tags["mlflow.source.git.commit"] = record["git_commit"]
        run_id = client.create_run(experiment, run_name=self._config.name, tags=tags).info.run_id
        params = [Param(key, str(value)[:6000]) for key, value in flatten(dataclasses.asdict(self._config))]
        for begin in range(0, len(params), MAX_PARAMS_PER_BATCH):
            client.log_batch(run_id, params=params[begin : begin + MAX_PARAMS_PER_BATCH])
        digest = str(record.get("data_digest", ""))
        dataset = Dataset(
            name=Path(self._config.data).name or "dataset",
            digest=digest.removeprefix("sha256:")[:36],
            source_type="vamba-manifest",
            source=json.dumps({"uri": self._config.data, "digest": digest}),
        )
        context = InputTag("mlflow.data.context", "training")
        client.log_inputs(run_id, datasets=[DatasetInput(dataset=dataset, tags=[context])])
        client.log_artifact(run_id, str(self._directory.config_path))
        return str(run_id)


def metrics_of(record: Mapping[str, Any]) -> dict[str, float]:
    """A line of the metrics file as MLflow metrics."""
    seconds = record["seconds"]
    step_s = sum(seconds.values())
    named = {key: float(record[key]) for key in ("loss", "grad_norm", "learning_rate", "epoch")}
    named |= {f"tokens/{kind}": float(record[f"num_{kind}_tokens"]) for kind in ("text", "video", "loss")}
    named |= {"seconds/step": step_s, **{f"seconds/{phase}": value for phase, value in seconds.items()}}
    num_tokens = record["num_text_tokens"] + record["num_video_tokens"]
    return {**named, "tokens_per_second": num_tokens / step_s if step_s else 0.0}


def source_version() -> dict[str, Any]:
    """The git commit of this source tree and whether it has changes; empty where it is not a checkout."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"git_commit": git("rev-parse", "HEAD"), "git_dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}
