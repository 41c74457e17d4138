"""MLflow, fed from the run directory: training writes files, a thread of the driver sends what they say.

    metrics/attempt-*.jsonl ── steps not sent yet ───┐
    metrics/machine.jsonl   ── samples not sent yet ─┼── log_batch ──> one MLflow run for all attempts of the run
    events.jsonl            ── attempts, evaluations ┘

Nothing in training waits for MLflow, and nothing is lost while it is away: the files are the buffer, and what has been
sent is asked of MLflow itself. A replayed step equals the one already sent, so every step is sent once.
"""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipelines.training.config import TrainingConfig
from pipelines.training.line_follower import LineFollower
from pipelines.training.machine import ALWAYS_PRESENT, MachineSampler
from pipelines.training.mlflow_run import MlflowRun, metrics_of
from pipelines.training.outages import Outages
from pipelines.training.run_directory import MetricsFollower, RunDirectory

RETRY_S = 10.0
EVALUATION_LOSS = "evaluation_loss"
MAX_STEPS_AT_ONCE = 500
_STATUS = {"finished": "FINISHED", "preempted": "SCHEDULED", "failed": "FAILED"}


class Tracker:
    """Follows one run directory into MLflow on a thread of its own."""

    def __init__(self, config: TrainingConfig, directory: RunDirectory, notice: Callable[[str], None]) -> None:
        self._config, self._directory, self._notice = config, directory, notice
        self._run: MlflowRun | None = None
        self._steps = _Unsent()
        self._samples, self._evaluations = _Unsent(), _Unsent()
        self._new_steps, self._new_samples = MetricsFollower(directory), LineFollower(directory.machine_path)
        self._new_events = LineFollower(directory.events_path)
        self._attempts: list[dict[str, Any]] = []
        self._closing = threading.Event()
        self._is_complete = False
        self._outages = Outages(notice, away="MLflow can't be reached", back="MLflow is back.")
        self._status = ""
        self._thread = threading.Thread(target=self._follow, name="mlflow-tracker", daemon=True)
        self._sampler: MachineSampler | None = None
        if config.tracking.enabled:
            self._sampler = MachineSampler(directory, config.tracking.machine_every_s)
            self._thread.start()

    def close(self, status: str, *, timeout_s: float = 60.0) -> None:
        """Send what is left and end the MLflow run as "finished", "preempted" or "failed"."""
        if self._sampler is None:
            return
        self._sampler.close()
        self._status = status
        self._closing.set()
        self._thread.join(timeout=timeout_s)
        if not self._is_complete:
            self._notice(
                f"MLflow has the run up to step {self._steps.sent}; the rest is in {self._directory.metrics}, "
                "and is sent when the same command runs again."
            )

    def _follow(self) -> None:
        while not self._closing.is_set():
            sent = self._outages.attempt(self._flush)
            self._closing.wait(self._config.tracking.flush_every_s if sent else RETRY_S)
        self._is_complete = self._outages.attempt(self._finish)

    def _flush(self) -> None:
        self._steps.add(record for _, record in self._new_steps.read_new())
        self._samples.add(self._new_samples.read_new())
        events = list(self._new_events.read_new())
        self._attempts += [event for event in events if event["event"] == "attempt_started" and event["rank"] == 0]
        self._evaluations.add(event for event in events if event["event"] == "evaluated")
        if self._run is None:
            # Importing MLflow takes seconds of this process, which has workers to start first.
            if not self._steps and not self._closing.is_set():
                return
            run = MlflowRun(self._config, self._directory)
            self._steps.sent, self._samples.sent = run.newest_step("loss"), run.newest_step(ALWAYS_PRESENT)
            self._evaluations.sent = run.newest_step(EVALUATION_LOSS)
            self._run = run
        every = self._config.tracking.detail_every_steps
        while steps := self._steps.next(MAX_STEPS_AT_ONCE):
            self._run.log(
                (step["step"], int(step["time"] * 1000), metrics_of(step, with_detail=step["step"] % every == 0))
                for step in steps
            )
            self._steps.sent = steps[-1]["step"]
        while samples := self._samples.next(MAX_STEPS_AT_ONCE):
            self._run.log((sample["step"], int(sample["time"] * 1000), sample["values"]) for sample in samples)
            self._samples.sent = samples[-1]["step"]
        while evaluations := self._evaluations.next(MAX_STEPS_AT_ONCE):
            self._run.log(
                (e["step"], int(e["time"] * 1000), {EVALUATION_LOSS: e[EVALUATION_LOSS]}) for e in evaluations
            )
            self._evaluations.sent = evaluations[-1]["step"]
        self._run.tag_attempts(self._attempts)
        self._attempts = []

    def _finish(self) -> None:
        self._flush()
        assert self._run is not None
        self._run.end(_STATUS[self._status])
        self._directory.update_run(mlflow_sent={"status": self._status, "step": self._steps.sent})


class _Unsent:
    """Records that were read and are not known to be in MLflow, oldest first. sent: step of the last one that is."""

    def __init__(self) -> None:
        self.sent = 0
        self._records: list[dict[str, Any]] = []

    def __bool__(self) -> bool:
        return bool(self._records)

    def add(self, records: Iterable[dict[str, Any]]) -> None:
        # Sample ids are most of a record and nothing to MLflow, which may be away for days.
        self._records += [{key: value for key, value in record.items() if key != "sample_ids"} for record in records]

    def next(self, count: int) -> list[dict[str, Any]]:
        """Up to `count` records after the last one sent, the first of each step."""
        newest = self.sent
        chosen: list[dict[str, Any]] = []
        rest: list[dict[str, Any]] = []
        for record in self._records:
            if record["step"] <= newest:
                continue
            newest = record["step"]
            (chosen if len(chosen) < count else rest).append(record)
        self._records = [*chosen, *rest]
        return chosen


def send_the_rest(config: TrainingConfig, directory: RunDirectory, notice: Callable[[str], None]) -> None:
    """Send what MLflow missed of a run that is finished, if anything."""
    sent = directory.read_run().get("mlflow_sent", {})
    if config.tracking.enabled and sent != {"status": "finished", "step": directory.finished_step()}:
        Tracker(config, directory, notice).close("finished")


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
