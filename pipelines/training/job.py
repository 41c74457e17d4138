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
import signal
import socket
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pipelines.training.checkpoint_files import checkpoint_directories, step_of
from pipelines.training.config import TrainingConfig
from pipelines.training.json_lines import count_damaged
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
from pipelines.training.stop import Notice, stopping_on_signals
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
        # Before anything that takes time: whoever asks for a stop from now on means this job, and gets it.
        directory.clear_requests()
        with stopping_on_signals(directory, notice, (signal.SIGTERM,)):
            return _train(_with_absolute_places(config), directory, notice, launch, launcher)


def _train(
    config: TrainingConfig, directory: RunDirectory, notice: Notice, launch: Launch, launcher: str
) -> TrainingSummary:
    # What follows the run's own files is shown, not kept: it is in them already.
    progress_notice, notice = notice, kept_notice(directory, notice)
    data = open_training_data(config)
    if config.mirror is not None:
        bring_back(config.mirror, directory, notice)
    start = find_start(config, directory)
    _refuse_to_shorten(directory, data.num_steps)
    is_new = not directory.attempts()
    if is_new:
        announce(preflight(_resolved(config, start), data), notice)
    directory.open(config, data_digest=data.digest, model=_architecture(_resolved(config, start)))
    _tell_damage(directory, notice)
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


def _with_absolute_places(config: TrainingConfig) -> TrainingConfig:
    """As it is recorded, so that the run can be continued from any working directory.

    `model.init_from` may be a name; what it means is pinned.
    """
    tokenizer, distill = config.model.tokenizer, config.distill
    return replace(
        config,
        data=_absolute(config.data),
        mirror=config.mirror and _absolute(config.mirror),
        model=replace(config.model, tokenizer=tokenizer and _absolute(tokenizer)),
        distill=distill and replace(distill, teachers=_absolute(distill.teachers)),
    )


def _refuse_to_shorten(directory: RunDirectory, num_steps: int) -> None:
    steps = [step_of(path) for path in checkpoint_directories(directory.checkpoints)]
    if steps and steps[-1] > num_steps:
        raise ValueError(
            f"Run {directory.name!r} has been trained to step {steps[-1]}, and would end at step {num_steps} now: it "
            f"can't end before it is. Set train.num_steps to {steps[-1]} or more, or give a new run another --name."
        )


def _tell_damage(directory: RunDirectory, notice: Notice) -> None:
    for path in (directory.events_path, *directory.attempts()):
        count = count_damaged(path)
        if count:
            notice(f"{count} lines of {path} can't be read, torn by a kill or changed since; they are left out.")


def _resolved(config: TrainingConfig, start: StartModel | None) -> TrainingConfig:
    """The configuration for workers: references turned into absolute directories that every process understands."""
    config = _with_absolute_places(config)
    if start is None:
        return config
    return replace(config, model=replace(config.model, init_from=str(start.directory)))


def _architecture(resolved: TrainingConfig) -> dict[str, Any] | None:
    """Of the model, by dotted names; None where the model it starts from is gone, which `pin_start` tells better."""
    start = resolved.model.init_from
    if start and not (Path(start) / "config.json").is_file():
        return None
    return dict(flatten(model_config(resolved).to_dict()))


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())
