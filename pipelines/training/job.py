"""The training job: a driver that starts Ray Train workers, shows their progress, and ends with a summary.

    run_training(config)
        driver  ── Ray: TorchTrainer.fit (own thread) ──> workers: train_rank ──> run directory
          │                                                                          │
          └── progress lines, MLflow  <── follows the files ─────────────────────────┘

Ray restarts the group when a worker dies; each group finds its position in our checkpoint store. Ray's own record of a
run is written in place and can be torn by a kill, so every start of the driver gets a fresh one and none is ever read
again. SIGTERM or SIGINT asks the workers to save and stop; the job then counts as preempted and continues when it is
started again.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from pipelines.ray_session import ray_session
from pipelines.training.config import TrainingConfig
from pipelines.training.lean_trainer import lean_trainer_class
from pipelines.training.preflight import Preflight, announce, preflight
from pipelines.training.ray_metrics import RayReporter
from pipelines.training.rewind import describe_guard_event
from pipelines.training.run_directory import MetricsFollower, RunDirectory, run_directory
from pipelines.training.session import TrainingData, open_training_data, train_rank
from pipelines.training.start_model import StartModel, find_start, pin_start
from pipelines.training.summary import TrainingSummary, summarize
from pipelines.training.tracking import Tracker, send_the_rest, source_version
from vamba.ops.backends import Backends, describe

PROGRESS_EVERY_S = 2.0
RAY_TRAIN_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "120",
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": "600",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
}
# Where Ray is started for this job alone, nodes don't come and go, and idle processes only take cores from the workers.
ONE_MACHINE_ENVIRONMENT = {
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_prestart_worker_first_driver": "0",
}


class TrainingFailedError(RuntimeError):
    """The workers failed more often than allowed; the message holds the last reason."""


def run_training(config: TrainingConfig, notice: Callable[[str], None] = print) -> TrainingSummary:
    """Start, continue or confirm the run `config.name`; returns when it is finished or was asked to stop.

    notice: receives lines for the user. Raises ValueError for what the user can correct (configuration, data, a run of
    this name that was started differently) and TrainingFailedError when the workers can't go on.
    """
    directory = run_directory(config.storage, config.name)
    data = open_training_data(config)
    start = find_start(config, directory)
    is_new = not directory.attempts()
    if is_new:
        announce(preflight(_resolved(config, start), data), notice)
    directory.open(config, data_digest=data.digest)
    if directory.finished_step() == data.num_steps and directory.model.exists():
        notice(f"Run {config.name!r} finished at step {data.num_steps}; its model is {directory.model}.")
        send_the_rest(config, directory, notice)
        return summarize(directory, "already_finished", data.num_steps)
    if start is not None:
        start = pin_start(start, directory)
    resolved = _resolved(config, start)
    if config.workers.gpu_memory_gb is not None and not is_new:
        preflight(resolved, data).require_fit()
    directory.append_event("job_started", pid=os.getpid(), process_started=psutil.Process().create_time())
    directory.update_run(init_from=config.model.init_from, **source_version())
    tracker = Tracker(config, directory, notice)
    status = "failed"
    try:
        _train_on_ray(resolved, directory, _Progress(directory, data, notice), notice)
        status = "finished" if directory.finished_step() == data.num_steps else "preempted"
    finally:
        tracker.close(status)
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


def _absolute(uri: str) -> str:
    return uri if "://" in uri else str(Path(uri).expanduser().resolve())


def _train_on_ray(
    config: TrainingConfig, directory: RunDirectory, progress: _Progress, notice: Callable[[str], None]
) -> None:
    """Run the worker group to its end. Raises TrainingFailedError."""
    address = os.environ.get("RAY_ADDRESS") or None
    for name, value in (RAY_TRAIN_ENVIRONMENT | ({} if address else ONE_MACHINE_ENVIRONMENT)).items():
        os.environ.setdefault(name, value)
    # Ray's processes take seconds to start, and so does importing torch: both at once.
    importing = threading.Thread(target=importlib.import_module, args=("torch",), daemon=True)
    importing.start()
    needed = math.ceil(config.workers.num_workers * config.workers.cpus)
    errors: list[BaseException] = []
    health = RayReporter(directory)

    def fit() -> None:
        try:
            _trainer(config, directory, one_machine=address is None).fit()
        except BaseException as error:
            errors.append(error)

    # Ray sets a SIGTERM handler of its own when it starts, so ours comes after it.
    with (
        ray_session(address, None if address else max(os.cpu_count() or 1, needed)),
        _stop_on_signal(directory, notice),
    ):
        importing.join()
        directory.append_event("ray_started")
        fitting = threading.Thread(target=fit, name="ray-train", daemon=True)
        fitting.start()
        while fitting.is_alive():
            fitting.join(timeout=0.25)
            progress.show()
            health.report()
    if errors:
        raise TrainingFailedError(_reason(errors[0])) from errors[0]


def _trainer(config: TrainingConfig, directory: RunDirectory, *, one_machine: bool) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = config.workers
    use_gpu = workers.device == "cuda"
    resources = {"CPU": workers.cpus, **({"GPU": 1} if use_gpu else {})}
    scaling = ScalingConfig(num_workers=workers.num_workers, use_gpu=use_gpu, resources_per_worker=resources)
    return (lean_trainer_class() if one_machine else TorchTrainer)(
        train_worker,
        train_loop_config={"config": config, "directory": str(directory.root)},
        torch_config=TorchConfig(backend="nccl" if use_gpu else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name=f"start-{int(time.time())}-{os.getpid()}",
            storage_path=str(directory.root / "ray"),
            failure_config=FailureConfig(max_failures=workers.max_failures),
        ),
    )


def train_worker(settings: Mapping[str, Any]) -> None:
    """Entry point of a Ray Train worker; the process group is already up."""
    train_rank(settings["config"], RunDirectory(Path(settings["directory"])))


def _reason(error: BaseException) -> str:
    """The innermost message of Ray's nested errors, in one paragraph."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while getattr(error, "cause", None) is not None or error.__cause__ is not None:
        error = getattr(error, "cause", None) or error.__cause__  # type: ignore[assignment]
    return f"{type(error).__name__}: {' '.join(str(error).split())[-1500:]}"


@contextmanager
def _stop_on_signal(directory: RunDirectory, notice: Callable[[str], None]) -> Iterator[None]:
    """SIGTERM and SIGINT ask the workers to save and stop. Only the main thread can install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, frame: object) -> None:
        directory.stop_path.touch()
        notice(f"{signal.Signals(signum).name}: saving a checkpoint, then stopping.")

    before = {number: signal.signal(number, ask) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Progress:
    """Turns what the workers write into lines for the user."""

    def __init__(self, directory: RunDirectory, data: TrainingData, notice: Callable[[str], None]) -> None:
        self._directory, self._data, self._notice = directory, data, notice
        self._follower = MetricsFollower(directory)
        for _ in self._follower.read_new():
            pass
        self._num_events = len(directory.read_events())
        self._window: list[dict[str, Any]] = []
        self._shown = time.monotonic()

    def show(self) -> None:
        """Print new events at once, and a progress line every two seconds."""
        events = self._directory.read_events()
        for event in events[self._num_events :]:
            self._show_event(event)
        self._num_events = len(events)
        self._window += [record for _, record in self._follower.read_new()]
        if self._window and time.monotonic() - self._shown >= PROGRESS_EVERY_S:
            self._shown = time.monotonic()
            self._notice(self._line())
            self._window = self._window[-1:]

    def _line(self) -> str:
        last, first = self._window[-1], self._window[0]
        elapsed_s = last["time"] - first["time"]
        num_steps = last["step"] - first["step"]
        speed = ""
        if elapsed_s > 0 and num_steps > 0:
            tokens = sum(record["num_text_tokens"] + record["num_video_tokens"] for record in self._window[1:])
            remaining_s = (self._data.num_steps - last["step"]) * elapsed_s / num_steps
            speed = f"  {tokens / elapsed_s:,.0f} tokens/s  {int(remaining_s // 60)}:{int(remaining_s % 60):02d} left"
        done = f"step {last['step']}/{self._data.num_steps}"
        return f"{done}  loss {last['loss']:.4f}  lr {last['learning_rate']:.2e}{speed}"

    def _show_event(self, event: Mapping[str, Any]) -> None:
        if event["event"] == "attempt_started" and event["rank"] == 0:
            step = event["resumed_from_step"]
            start = f"resumed from step {step}" if step else "from the start"
            backends = describe(Backends(**event["backends"]))
            self._notice(f"attempt {event['attempt']}: {event['world_size']} workers, {start}; {backends}")
        elif event["event"] == "checkpoint_quarantined":
            self._notice(f"checkpoint {event['checkpoint']} set aside as {event['moved_to']}: {event['reason']}")
        elif event["event"] == "evaluated":
            self._notice(f"step {event['step']}  evaluation loss {event['evaluation_loss']:.4f}")
        elif line := describe_guard_event(event):
            self._notice(line)
