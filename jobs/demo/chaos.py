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

KILL_WORKER_AFTER, KILL_JOB_AFTER = 0.3, 0.6
"""Shares of the run's steps. Neither falls on a checkpoint, so both kills lose steps that must be trained again."""


def train_through_kills(command: Sequence[str], env: Mapping[str, str], directory: Path) -> int:
    """Run a training command, SIGKILL one worker and later everything, and run the command again to its end.

    Returns the exit code of the last start; of the first where it ended before it could be killed.
    """
    run = RunDirectory(directory)
    show(command)
    driver = start(command, env)
    if not _wait_for(driver, lambda: _progress(run) >= KILL_WORKER_AFTER):
        return driver.wait()
    attempt = _last_attempt(run)
    pid = attempt[max(attempt)]
    print(f"\n>>> demo: SIGKILL of worker rank {max(attempt)}, process {pid}; Ray Train restarts the group", flush=True)
    os.kill(pid, signal.SIGKILL)
    if not _wait_for(driver, lambda: _progress(run) >= KILL_JOB_AFTER and _last_attempt(run) != attempt):
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
    attempts = run.attempts()
    if not attempts:
        return 0.0
    lines = attempts[-1].read_bytes().count(b"\n")
    started = [event for event in run.read_events() if event["event"] == "attempt_started"]
    if not lines or not started:
        return 0.0
    return (int(started[-1].get("resumed_from_step") or 0) + lines) / int(started[-1]["num_steps"])


def _last_attempt(run: RunDirectory) -> dict[int, int]:
    """Process of each rank of the newest attempt."""
    started = [event for event in run.read_events() if event["event"] == "attempt_started"]
    number = max(int(event["attempt"]) for event in started)
    return {int(event["rank"]): int(event["pid"]) for event in started if int(event["attempt"]) == number}
