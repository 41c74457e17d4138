"""Who trains a run: one job at a time, and of that job one group of workers. A lock dies with the process that holds
it, so a killed job or group blocks nobody.

    job.lock    the driver, from before it touches the run until it ends; its content names the process
    lock        rank 0 of the group of workers
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import IO

from pipelines.file_lock import try_lock, wait_for_lock
from pipelines.training.run_directory import RunDirectory

LOCK_TIMEOUT_S = 60.0
# `running_job` holds the lock for an instant while it looks.
_PROBE_S = 2.0


class RunBusyError(RuntimeError):
    """Another job trains this run."""

    exit_code = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class JobProcess:
    """The driver of a running job."""

    pid: int
    host: str


@contextmanager
def exclusive(directory: RunDirectory, rank: int = 0, *, timeout_s: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Hold the run as its workers do, on their first rank.

    Raises:
        RunBusyError: another process still holds it after `timeout_s` seconds.
    """
    if rank != 0:
        yield
        return
    with (directory.root / "lock").open("a") as file:
        _wait_for(file, directory, timeout_s)
        yield


@contextmanager
def only_job(directory: RunDirectory) -> Iterator[None]:
    """Hold the run as its job does.

    Raises:
        RunBusyError: another job holds it.
    """
    directory.root.mkdir(parents=True, exist_ok=True)
    with (directory.root / "job.lock").open("a") as file:
        _wait_for(file, directory, _PROBE_S)
        file.truncate(0)
        file.write(json.dumps(asdict(JobProcess(pid=os.getpid(), host=socket.gethostname()))))
        file.flush()
        yield


def running_job(directory: RunDirectory) -> JobProcess | None:
    """The job that trains the run now, None when none does."""
    path = directory.root / "job.lock"
    if not path.exists():
        return None
    with path.open("a+") as file:
        if try_lock(file):
            return None
        file.seek(0)
        try:
            return JobProcess(**json.loads(file.read()))
        except (ValueError, TypeError):
            return JobProcess(pid=0, host="unknown")


def is_trained(directory: RunDirectory) -> bool:
    """Whether some group of workers holds the run, also one that has outlived its job."""
    path = directory.root / "lock"
    if not path.exists():
        return False
    with path.open("a") as file:
        return not try_lock(file)


def _wait_for(file: IO[str], directory: RunDirectory, timeout_s: float) -> None:
    if not wait_for_lock(file, timeout_s):
        job = running_job(directory)
        by = f"by process {job.pid} on {job.host}" if job else "by another job"
        raise RunBusyError(
            f"Run {directory.name!r} is being trained {by}: stop that (`vamba runs stop {directory.name}`), or "
            "choose another name."
        )
