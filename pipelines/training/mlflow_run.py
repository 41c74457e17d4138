"""The one MLflow run of a training run: found or created, described, and told about steps, machine and attempts.

Every call may fail half-way or be answered too late to be heard, and is then made again. So each one is such that a
second time changes nothing: a run is found by a key that was written down before it was created, parameters and inputs
are set to what they are, and a batch holds whole steps with the times at which they were recorded, which MLflow stores
once however often it gets them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.registry.tracking import DATABASE_NAME
from pipelines.storage import vamba_home
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory, flatten
from vamba.ops.backends import Backends, describe

if TYPE_CHECKING:
    pass

MAX_METRICS_PER_BATCH = 1000
MAX_PARAMS_PER_BATCH = 100
_KEY_TAG, _DESCRIBED_TAG = "vamba.run_key", "vamba.described"

Point = tuple[int, int, Mapping[str, float]]
"""(step, time in ms, values by metric)"""


class MlflowRun:
    """A training run in MLflow. Every method raises what MLflow raises."""

    def __init__(self, config: TrainingConfig, directory: RunDirectory) -> None:
        """Find or create the run, and describe it."""
        from pipelines.registry.tracking import experiment_id, open_client

        self._config, self._directory = config, directory
        self._client = open_client(_home(directory))
        known = directory.read_run().get("mlflow_run_id")
        self.run_id = known or self._find_or_create(experiment_id(self._client, config.tracking.experiment))
        if not known:
            directory.update_run(mlflow_run_id=self.run_id)
        self._client.update_run(self.run_id, status="RUNNING")
        tags = self._client.get_run(self.run_id).data.tags
        if _DESCRIBED_TAG not in tags:
            self._describe()
        self._client.log_artifact(self.run_id, str(directory.config_path))
        self._note_environment(tags.get("environment_digest", ""))
        backends = Backends(**directory.read_run().get("backends", {}))
        self._client.set_tag(self.run_id, "vamba.backends", describe(backends))

    def newest_step(self, metric: str) -> int:
        """The last step for which MLflow has `metric`; 0 for none."""
        return max((point.step for point in self._client.get_metric_history(self.run_id, metric)), default=0)

    def log(self, points: Iterable[Point]) -> None:
        """Send points, in as few batches as there can be; each batch holds whole points."""
        from mlflow.entities import Metric

        batch: list[Metric] = []
        for step, time_ms, values in points:
            if len(batch) + len(values) > MAX_METRICS_PER_BATCH:
                self._client.log_batch(self.run_id, metrics=batch)
                batch = []
            batch += [Metric(key, value, time_ms, step) for key, value in values.items()]
        if batch:
            self._client.log_batch(self.run_id, metrics=batch)

    def tag_attempts(self, events: Sequence[Mapping[str, Any]]) -> None:
        """A tag for every attempt: where it started, with how many workers, when, and on which host."""
        from mlflow.entities import RunTag

        tags = [
            RunTag(
                f"vamba.attempt.{event['attempt']:04d}",
                json.dumps(
                    {
                        "from_step": event["resumed_from_step"],
                        "workers": event["world_size"],
                        "host": event.get("host", ""),
                        "started": datetime.fromtimestamp(event["time"], UTC).isoformat(timespec="seconds"),
                    }
                ),
            )
            for event in events
        ]
        if tags:
            self._client.log_batch(self.run_id, tags=tags)

    def end(self, status: str) -> None:
        """Close the run as MLflow's `status`."""
        self._client.set_terminated(self.run_id, status=status)

    def _find_or_create(self, experiment: str) -> str:
        key = self._directory.read_run().get("run_key")
        if key:
            found = self._client.search_runs([experiment], f"tags.`{_KEY_TAG}` = '{key}'", max_results=1)
            if found:
                return str(found[0].info.run_id)
        else:
            key = uuid.uuid4().hex
            self._directory.update_run(run_key=key)
        tags = {_KEY_TAG: key, "vamba.run_directory": str(self._directory.root), "vamba.recipe": self._config.recipe}
        return str(self._client.create_run(experiment, run_name=self._config.name, tags=tags).info.run_id)

    def _describe(self) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag, Param, RunTag

        record = self._directory.read_run()
        # A parameter can't be set again, and one that may change can have changed since a start that was cut off here.
        known = self._client.get_run(self.run_id).data.params
        values = flatten(dataclasses.asdict(self._config))
        params = [Param(key, str(value)[:6000]) for key, value in values if key not in known]
        for begin in range(0, len(params), MAX_PARAMS_PER_BATCH):
            self._client.log_batch(self.run_id, params=params[begin : begin + MAX_PARAMS_PER_BATCH])
        digest = str(record.get("data_digest", ""))
        dataset = Dataset(
            name=Path(self._config.data).name or "dataset",
            digest=digest.removeprefix("sha256:")[:36],
            source_type="vamba-manifest",
            source=json.dumps({"uri": self._config.data, "digest": digest}),
        )
        context = InputTag("mlflow.data.context", "training")
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset=dataset, tags=[context])])
        tags: dict[str, str] = {
            key: str(record[key]) for key in ("config_digest", "data_digest", "git_dirty") if key in record
        }
        if record.get("git_commit"):
            tags["mlflow.source.git.commit"] = record["git_commit"]
        tags[_DESCRIBED_TAG] = "true"
        self._client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _note_environment(self, noted: str) -> None:
        """The installed packages as `environment/DIGEST.txt`, each different set once, and the newest by its digest."""
        from pipelines.registry.lineage import installed_packages

        packages = "\n".join(installed_packages())
        digest = hashlib.sha256(packages.encode()).hexdigest()
        if noted != f"sha256:{digest}":
            self._client.log_text(self.run_id, packages + "\n", f"environment/{digest[:12]}.txt")
            self._client.set_tag(self.run_id, "environment_digest", f"sha256:{digest}")


def _home(directory: RunDirectory) -> Path | None:
    """The VAMBA_HOME that the run's MLflow database is in, wherever it is continued: the one of its first start, or
    the one that it lies in, if it was moved with it."""
    noted = directory.read_run().get("mlflow_home")
    if noted is None:
        noted = str(vamba_home().resolve())
        directory.update_run(mlflow_home=noted)
    homes = (Path(noted), directory.root.parent.parent)
    return next((home for home in homes if (home / DATABASE_NAME).is_file()), None)


def metrics_of(record: Mapping[str, Any], *, with_detail: bool = True) -> dict[str, float]:
    """A line of the metrics file as MLflow metrics. with_detail: gradient norms by group and alphas by layer too."""
    seconds = record["seconds"]
    step_s = sum(seconds.values())
    named = {key: float(record[key]) for key in ("loss", "grad_norm", "learning_rate", "epoch")}
    if record.get("mfu") is not None:
        named["mfu"] = float(record["mfu"])
    if "skipped" in record:
        named["skipped"] = float(record["skipped"] is not None)
    named |= {f"tokens/{kind}": float(record[f"num_{kind}_tokens"]) for kind in ("text", "video", "loss")}
    named |= {"seconds/step": step_s, **{f"seconds/{phase}": value for phase, value in seconds.items()}}
    if "memory_bytes" in record:
        named["memory_gib"] = record["memory_bytes"] / 1024**3
    if step_s:
        text, video = record["num_text_tokens"] / step_s, record["num_video_tokens"] / step_s
        named |= {"tokens_per_second": text + video, "tokens_per_second/text": text, "tokens_per_second/video": video}
        named["data_wait_share"] = seconds.get("data", 0.0) / step_s
    if with_detail:
        named |= {f"grad_norm/{group}": norm for group, norm in record.get("grad_norms", {}).items()}
        named |= {f"alpha/{layer:02d}": alpha for layer, alpha in enumerate(record.get("alphas", ()))}
    return named
