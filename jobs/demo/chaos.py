"""Stage 2 on a bad day: one worker is killed, then the whole job is killed, and the same command ends the run."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from jobs.demo.processes import kill_job, show, start
from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts

KILL_WORKER_AFTER, KILL_JOB_AFTER = 0.33, 0.63
"""Shares of the run's steps: steps since the newest checkpoint are lost and must be trained again."""


def train_through_kills(command: Sequence[str], env: Mapping[str, str], directory: Path) -> int:
    """Run a training command, SIGKILL one worker and later everything, and run the command again to its end.

    Returns the exit code of the last start; of the first where it ended before it could be killed.
    """
    run = RunDirectory(directory)
    show(command)
    driver = start(command, env)
    if not _wait_for(driver, lambda: _progress(run) >= KILL_WORKER_AFTER):
        return driver.wait()
    pids = read_attempts(run)[-1].pids
    print(f"\n>>> demo: SIGKILL of worker rank 1, process {pids[1]}; Ray Train restarts the group", flush=True)
    os.kill(pids[1], signal.SIGKILL)
    if not _wait_for(driver, lambda: _progress(run) >= KILL_JOB_AFTER and read_attempts(run)[-1].pids != pids):
        return driver.wait()
    count = kill_job(driver)
    print(f"\n>>> demo: SIGKILL of the whole job, {count} processes; the same command again:", flush=True)
    show(command)
    return start(command, env).wait()


def _wait_for(driver: subprocess.Popen[bytes], reached: Callable[[], bool]) -> bool:
    """True when the state is reached, False when the driver ends first."""
    while driver.poll() is None:
        if reached():
            return True
        time.sleep(0.1)
    return False


def _progress(run: RunDirectory) -> float:
    """Share of the run's steps that the newest attempt has reached; 0 before its first step."""
    started = [event for event in run.read_events() if event["event"] == "attempt_started"]
    files = run.attempts()
    lines = files[-1].read_bytes().count(b"\n") if files else 0
    if not lines or not started:
        return 0.0
    return (int(started[-1]["resumed_from_step"]) + lines) / int(started[-1]["num_steps"])
