"""`vamba submit` on a machine that has the source tree, the cluster's address, and nothing else: no credentials."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A job that was submitted and is followed. log: what the client shows."""

    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        """The end of what the client has shown."""
        return self.log.read_text(errors="replace")[-6000:]

    def succeed(self) -> None:
        """Wait for its end. Raises AssertionError with its log where it does not end well."""
        assert self.wait() == 0, self.text

    def wait(self) -> int:
        """Its exit code."""
        try:
            return self.process.wait(timeout=PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"The job has not ended within {PATIENCE_S:.0f} s: {self.text}") from None

    def wait_until(self, reached: Callable[[], bool], what: str) -> None:
        """While the job runs. Raises AssertionError where it ends before, or takes too long."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            assert self.process.poll() is None, f"The job has ended before {what}: {self.text}"
            assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE_S:.0f} s: {self.text}"
            time.sleep(0.05)

    def end(self) -> None:
        """The client goes, not the job."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Client:
    """Submits jobs to one cluster."""

    def __init__(self, dashboard: str, folder: Path, places: Mapping[str, str]) -> None:
        """folder: for its home and its logs. places: variables that say where runs and MLflow are."""
        self._dashboard, self._folder, self._submitted = dashboard, folder, list[Submitted]()
        (folder / "home").mkdir(parents=True)
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder / "home"),
            "LANG": "C.UTF-8",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            **places,
        }

    def submit(self, job: str, *words: object) -> Submitted:
        """Returns at once; the client follows the job."""
        log = self._folder / f"{len(self._submitted) + 1:02d}-{job}.log"
        command = [sys.executable, "-m", "jobs", "submit", job, "--to", self._dashboard, *map(str, words)]
        with log.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=ROOT, env=self._environment, stdout=file, stderr=file, stdin=subprocess.DEVNULL
            )
        self._submitted.append(Submitted(process=process, log=log))
        return self._submitted[-1]

    def close(self) -> None:
        """Ends the clients that are left."""
        for submitted in self._submitted:
            submitted.end()
