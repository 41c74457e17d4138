"""Workers under Ray Train: started, watched, started again when one is lost.

    train_on_ray ── TorchTrainer.fit (own thread) ──> train_worker on every rank ── train_rank

Ray restarts the group when a worker dies; each group finds its position in our checkpoint store. Ray's own record of a
run is written in place and can be torn by a kill, so every start gets a fresh one and none is ever read again.
"""

from __future__ import annotations

import importlib
import math
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipelines.capacity import require_room_here, training_needs
from pipelines.ray_session import ray_session
from pipelines.training.checkpoint_files import checkpoint_directories, step_of
from pipelines.training.config import TrainingConfig
from pipelines.training.lean_trainer import lean_trainer_class
from pipelines.training.progress import Progress
from pipelines.training.ray_metrics import RayReporter
from pipelines.training.ray_preemption import read_notice
from pipelines.training.run_directory import RunDirectory
from pipelines.training.session import train_rank
from pipelines.training.stop import Notice, stopping_on_signals

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
# Said, because Ray Train's controller would take it from the node that it happens to run on.
CLUSTER_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "1"}
# A group that runs with fewer workers looks for room for more, and one that waits for room takes what there is.
ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15"}


class TrainingFailedError(RuntimeError):
    """The workers failed more often than allowed; the message holds the last reason."""

    exit_code = 1


def train_on_ray(config: TrainingConfig, directory: RunDirectory, progress: Progress, notice: Notice) -> None:
    """Run groups of workers until the run is finished or was asked to stop. Raises TrainingFailedError."""
    if directory.stop_path.exists():
        return
    address = os.environ.get("RAY_ADDRESS") or None
    elastic = _is_elastic(config, address)
    environment = RAY_TRAIN_ENVIRONMENT | (CLUSTER_ENVIRONMENT if address else ONE_MACHINE_ENVIRONMENT)
    for name, value in (environment | (ELASTIC_ENVIRONMENT if elastic else {})).items():
        os.environ.setdefault(name, value)
    # Ray's processes take seconds to start, and so does importing torch: both at once.
    importing = threading.Thread(target=importlib.import_module, args=("torch",), daemon=True)
    importing.start()
    num_cpus = (
        None if address else max(os.cpu_count() or 1, math.ceil(config.workers.num_workers * config.workers.cpus))
    )
    looks_for_room = address is not None
    while True:
        saved = _newest_step(directory)
        with stopping_on_signals(directory, notice), ray_session(address, num_cpus):
            importing.join()
            if looks_for_room and not directory.stop_path.exists():
                require_room_here(training_needs(config), notice)
                looks_for_room = False
            # Ray sets a SIGTERM handler of its own when it starts, so ours comes after it once more.
            with stopping_on_signals(directory, notice):
                error = None
                if not directory.stop_path.exists():
                    error = _fit_where_room_is(config, directory, progress, address, notice)
        reason = directory.read_failure() or (_reason(error) if error is not None else None)
        if reason is None:
            return
        if directory.read_failure() or directory.stop_path.exists() or _newest_step(directory) <= saved:
            raise TrainingFailedError(reason) from error
        notice(f"The workers are started again, from step {_newest_step(directory)}, after: {reason}")


def _fit_where_room_is(
    config: TrainingConfig, directory: RunDirectory, progress: Progress, address: str | None, notice: Notice
) -> BaseException | None:
    """Fits until the run is finished, stopped or failed: a group that has left machines to be taken goes on elsewhere,
    and has failed nothing. Ray starts no worker on a machine that is being drained."""
    while True:
        error = _fit(config, directory, progress, address)
        if error is not None or not _has_left(directory):
            return error
        notice(f"The workers go on elsewhere, from step {_newest_step(directory)}.")


def _has_left(directory: RunDirectory) -> bool:
    """Whether the last group ended because of a preemption notice: nobody asked it to stop, and it is not finished."""
    if directory.stop_path.exists() or directory.read_failure():
        return False
    ends = [event["event"] for event in directory.read_events() if event["event"] in ("finished", "stopped")]
    return bool(ends) and ends[-1] == "stopped"


def _fit(
    config: TrainingConfig, directory: RunDirectory, progress: Progress, address: str | None
) -> BaseException | None:
    """One `TorchTrainer.fit`, and what it failed with."""
    errors: list[BaseException] = []

    def fit() -> None:
        try:
            _trainer(config, directory, address).fit()
        except BaseException as error:
            errors.append(error)

    health = RayReporter(directory)
    directory.append_event("ray_started")
    fitting = threading.Thread(target=fit, name="ray-train", daemon=True)
    fitting.start()
    while fitting.is_alive():
        fitting.join(timeout=0.25)
        progress.show()
        health.report()
    health.report(at_once=True)
    return errors[0] if errors else None


def _trainer(config: TrainingConfig, directory: RunDirectory, address: str | None) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    workers = config.workers
    use_gpu = workers.device == "cuda"
    elastic = _is_elastic(config, address)
    number: Any = (workers.min_workers, workers.num_workers) if elastic else workers.num_workers
    scaling = ScalingConfig(
        num_workers=number,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": workers.cpus, **({"GPU": 1} if use_gpu else {})},
        elastic_resize_monitor_interval_s=workers.look_for_room_every_s,  # type: ignore[call-arg]
    )
    return (TorchTrainer if address else lean_trainer_class())(
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
    directory = RunDirectory(Path(settings["directory"]))
    if directory.read_failure():
        return  # what the group before failed with will not be another one now
    from vamba.train.guard import GuardError
    from vamba.train.step import NonFiniteError

    try:
        train_rank(settings["config"], directory, read_notice)
    except (ValueError, GuardError, NonFiniteError) as error:
        if _is_ours(error):
            directory.write_failure(f"{type(error).__name__}: {error}")
        raise


def _is_ours(error: BaseException) -> bool:
    """Whether it is a mistake that a person must correct: raised by this project, in a group that is still whole.

    Where Ray ends a group under its training thread, torch raises ValueErrors too.
    """
    import torch.distributed as dist

    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = str(frame.tb_frame.f_globals.get("__name__", "")) if frame is not None else ""
    return dist.is_initialized() and module.partition(".")[0] in ("pipelines", "vamba")


def _is_elastic(config: TrainingConfig, address: str | None) -> bool:
    """On a machine of one's own there is always room for all workers."""
    fewest = config.workers.min_workers
    return address is not None and fewest is not None and fewest < config.workers.num_workers


def _newest_step(directory: RunDirectory) -> int:
    return max(map(step_of, checkpoint_directories(directory.checkpoints)), default=0)


def _reason(error: BaseException) -> str:
    """The innermost message of Ray's nested errors, in one paragraph."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        error = next(iter(failures.values()))
    while getattr(error, "cause", None) is not None or error.__cause__ is not None:
        error = getattr(error, "cause", None) or error.__cause__  # type: ignore[assignment]
    return f"{type(error).__name__}: {' '.join(str(error).split())[-1500:]}"
