"""The training job: opens the run, has its workers started, follows them, and ends with a summary.

    run_training(config)
        driver  ── launch (Ray Train; or this process, see here.py) ──> workers: train_rank ──> run directory
          │                                                                                         │
          └── progress lines, MLflow  <── follows the files ────────────────────────────────────────┘

SIGTERM or SIGINT asks the workers to save and stop; the job then counts as preempted and continues when it is started
again. One job at a time works on a run.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from pipelines.training.config import TrainingConfig
from pipelines.training.model_facts import model_facts
from pipelines.training.progress import Progress
from pipelines.training.ray_launch import train_on_ray
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.run_lock import only_job
from pipelines.training.run_log import kept_notice, try_event
from pipelines.training.session import open_training_data
from pipelines.training.stop import Notice
from pipelines.training.summary import TrainingSummary, summarize
from pipelines.training.tracking import Tracker, source_version

Launch = Callable[[TrainingConfig, RunDirectory, Progress, Notice], None]
"""Has the run trained, and returns when it is finished or was asked to stop."""


def run_training(
    config: TrainingConfig, notice: Notice = print, launch: Launch = train_on_ray, *, launcher: str = "Ray Train"
) -> TrainingSummary:
    """Start, continue or confirm the run `config.name`; returns when it is finished or was asked to stop.

    notice: receives lines for the user, which are kept in the run as well. launcher: what `launch` is, for the record.
    Raises ValueError for what the user can correct (configuration, data, a run of this name that was started
    differently), RunBusyError where another job trains it, TrainingFailedError when the workers can't go on.
    """
    directory = run_directory(config.storage, config.name)
    with only_job(directory):
        return _train(_with_absolute_data(config), directory, notice, launch, launcher)


def _train(
    config: TrainingConfig, directory: RunDirectory, notice: Notice, launch: Launch, launcher: str
) -> TrainingSummary:
    # What follows the run's own files is shown, not kept: it is in them already.
    progress_notice, notice = notice, kept_notice(directory, notice)
    data = open_training_data(config)
    resolved = _resolved(config, directory)
    directory.open(config, data_digest=data.digest, model=model_facts(resolved))
    if directory.finished_step() == data.num_steps and directory.model.exists():
        notice(f"Run {config.name!r} finished at step {data.num_steps}; its model is {directory.model}.")
        return summarize(directory, "already_finished", data.num_steps)
    directory.update_run(
        init_from=config.model.init_from, init_from_directory=resolved.model.init_from, **source_version()
    )
    directory.append_event("job_started", pid=os.getpid(), host=socket.gethostname(), launcher=launcher)
    tracker = Tracker(config, directory, notice)
    status = "failed"
    try:
        launch(resolved, directory, Progress(directory, data.num_steps, progress_notice), notice)
        status = "finished" if directory.finished_step() == data.num_steps else "preempted"
    finally:
        tracker.close(status)
        try_event(directory, "job_ended", status=status)
    return summarize(directory, "finished" if status == "finished" else "preempted", data.num_steps)


def _with_absolute_data(config: TrainingConfig) -> TrainingConfig:
    """The data where any process finds them, from any working directory, now and when the run is continued."""
    if "://" in config.data:
        return config
    return replace(config, data=str(Path(config.data).expanduser().resolve()))


def _resolved(config: TrainingConfig, directory: RunDirectory) -> TrainingConfig:
    """The configuration for workers: references turned into absolute directories that every process understands.

    A continued run keeps the model it was started from, also where its name has come to mean another one since.
    """
    model = config.model
    if model.init_from:
        known = directory.read_run().get("init_from_directory")
        if known is None or not Path(known).is_dir() or directory.read_run().get("init_from") != model.init_from:
            from pipelines.registry.models import resolve_model

            known = str(resolve_model(model.init_from).directory)
        model = replace(model, init_from=known)
    if model.tokenizer:
        model = replace(model, tokenizer=str(Path(model.tokenizer).expanduser().resolve()))
    return replace(config, model=model)
