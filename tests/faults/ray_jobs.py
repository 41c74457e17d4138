"""Starts `vamba train` as a user does, in a session of its own, so that a test can end parts of it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

from jobs.config import to_yaml
from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.faults.lives import ROOT

_PATIENCE_S = 200.0


class RayJob:
    """A running `vamba train`."""

    def __init__(self, config: TrainingConfig, scratch: Path, *words: str, environment: Mapping[str, str]) -> None:
        self.directory: RunDirectory = run_directory(config.storage, config.name)
        self._processes: set[psutil.Process] = set()
        recipe = scratch / f"{config.name}.yaml"
        recipe.write_text(to_yaml(config))
        self.output = scratch / f"{config.name}.txt"
        # A job that an earlier test ran in this process has left its settings of Ray Train here.
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAY_TRAIN_")}
        command = [sys.executable, "-m", "jobs", "train", str(recipe), "--data", config.data, "--name", config.name]
        with self.output.open("a") as file:
            self.process = subprocess.Popen(
                [*command, *words], cwd=ROOT, stdout=file, stderr=file, start_new_session=True,
                env={**inherited, "PYTHONPATH": str(ROOT), **environment},
            )  # fmt: skip

    def wait(self) -> int:
        try:
            return self.process.wait(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.text) from None

    def wait_until(self, reached: Callable[[RunDirectory], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not reached(self.directory):
            assert self.process.poll() is None and time.monotonic() < deadline, self.text
            time.sleep(0.01)
        self.note_processes()

    @property
    def text(self) -> str:
        return self.output.read_text()

    def child(self, name: str) -> int:
        """The pid of the job's process of that name, for example "raylet"."""
        (found,) = [p for p in psutil.Process(self.process.pid).children(recursive=True) if p.name() == name]
        return int(found.pid)

    def note_processes(self) -> None:
        """Remember what belongs to the job, while its parent can tell."""
        with contextlib.suppress(psutil.NoSuchProcess):
            self._processes.update(psutil.Process(self.process.pid).children(recursive=True))

    def clean_up(self) -> None:
        """End what is left of the job. Its processes are told from others of the same pid by their start."""
        self.note_processes()
        if self.process.poll() is None:
            self.process.kill()
        for process in self._processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


@contextmanager
def ray_job(
    config: TrainingConfig, scratch: Path, *words: str, environment: Mapping[str, str] | None = None
) -> Iterator[RayJob]:
    """The job, ended with all its processes at the end of the block."""
    job = RayJob(config, scratch, *words, environment=environment or {})
    try:
        yield job
    finally:
        job.clean_up()
