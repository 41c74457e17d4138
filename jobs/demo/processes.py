"""Running `vamba` commands as a user's shell would, killing them as a bad day would, and weighing their memory."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil


def show(words: Sequence[str]) -> None:
    """Print a command as a user types it."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() else ("", "")
    print(f"\n{bold}$ vamba {shlex.join(words)}{plain}", flush=True)


def start(words: Sequence[str], env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start `vamba WORDS…` with this interpreter."""
    return subprocess.Popen([sys.executable, "-m", "jobs", *words], env={**os.environ, **env})


def kill_job(driver: subprocess.Popen[bytes]) -> int:
    """SIGKILL a driver and every process below it, Ray's included; returns how many there were."""
    try:
        doomed = psutil.Process(driver.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        doomed = []
    driver.send_signal(signal.SIGKILL)
    for process in doomed:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(doomed, timeout=10)
    driver.wait()
    return 1 + len(doomed)


class MemoryWatch:
    """The largest memory that this process and all below it held together, shared pages counted once."""

    def __init__(self, interval_s: float = 2.0) -> None:
        self.peak_bytes = 0
        self._interval_s = interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        own = psutil.Process()
        while not self._stop.wait(self._interval_s):
            processes = [own, *own.children(recursive=True)]
            self.peak_bytes = max(self.peak_bytes, sum(_proportional_bytes(process.pid) for process in processes))


def _proportional_bytes(pid: int) -> int:
    """PSS of a process in bytes; 0 once it is gone."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in rollup.splitlines() if line.startswith("Pss:")), 0)
