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
from typing import Any

import psutil

from pipelines.training.config import TrainingConfig
from pipelines.training.mirror import mirrored
from pipelines.training.mirror_back import bring_back
from pipelines.training.preflight import Preflight, announce, preflight
from pipelines.training.progress import Progress
from pipelines.training.ray_launch import train_on_ray
from pipelines.training.run_directory import RunDirectory, flatten, run_directory
from pipelines.training.run_lock import only_job
from pipelines.training.run_log import kept_notice, try_event
from pipelines.training.session import model_config, open_training_data
from pipelines.training.start_model import StartModel, find_start, pin_start
from pipelines.training.stop import Notice
from pipelines.training.summary import TrainingSummary, summarize
from pipelines.training.tracking import Tracker, send_the_rest, source_version

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
        # The data's place is recorded so that the run can be continued from any working directory.
        return _train(replace(config, data=_absolute(config.data)), directory, notice, launch, launcher)


def _train(
    config: TrainingConfig, directory: RunDirectory, notice: Notice, launch: Launch, launcher: str
) -> TrainingSummary:
    # What follows the run's own files is shown, not kept: it is in them already.
    progress_notice, notice = notice, kept_notice(directory, notice)
    data = open_training_data(config)
    if config.mirror is not None:
        bring_back(config.mirror, directory, notice)
    start = find_start(config, directory)
    is_new = not directory.attempts()
    if is_new:
        announce(preflight(_resolved(config, start), data), notice)
    directory.open(config, data_digest=data.digest, model=_architecture(_resolved(config, start)))
    if directory.finished_step() == data.num_steps and directory.model.exists():
        notice(f"Run {config.name!r} finished at step {data.num_steps}; its model is {directory.model}.")
        send_the_rest(config, directory, notice)
        return summarize(directory, "already_finished", data.num_steps)
    if start is not None:
        start = pin_start(start, directory)
    resolved = _resolved(config, start)
    if config.workers.gpu_memory_gb is not None and not is_new:
        preflight(resolved, data).require_fit()
    directory.append_event(
        "job_started", pid=os.getpid(), host=socket.gethostname(), launcher=launcher,
        process_started=psutil.Process().create_time(),
    )  # fmt: skip
    directory.update_run(init_from=config.model.init_from, **source_version())
    tracker = Tracker(config, directory, notice)
    status = "failed"
    try:
        with mirrored(config.mirror, directory, notice):
            launch(resolved, directory, Progress(directory, data.num_steps, progress_notice), notice)
        status = "finished" if directory.finished_step() == data.num_steps else "preempted"
    finally:
        tracker.close(status)
        try_event(directory, "job_ended", status=status)
    return summarize(directory, "finished" if status == "finished" else "preempted", data.num_steps)


def describe_run(config: TrainingConfig) -> Preflight:
    """What `run_training` would do, counted; changes nothing. Raises ValueError for what it would refuse."""
    directory = run_directory(config.storage, config.name)
    data = open_training_data(config)
    return preflight(_resolved(config, find_start(config, directory)), data)


def _resolved(config: TrainingConfig, start: StartModel | None) -> TrainingConfig:
    """The configuration for workers: references turned into absolute directories that every process understands."""
    model = config.model
    if start is not None:
        model = replace(model, init_from=str(start.directory))
    if model.tokenizer:
        model = replace(model, tokenizer=str(Path(model.tokenizer).expanduser().resolve()))
    distill = config.distill and replace(config.distill, teachers=_absolute(config.distill.teachers))
    return replace(config, model=model, data=_absolute(config.data), distill=distill)


def _architecture(resolved: TrainingConfig) -> dict[str, Any] | None:
    """Of the model, by dotted names; None where the model it starts from is gone, which `pin_start` tells better."""
    start = resolved.model.init_from
    if start and not (Path(start) / "config.json").is_file():
        return None
    return dict(flatten(model_config(resolved).to_dict()))


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())
