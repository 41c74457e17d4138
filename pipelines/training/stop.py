"""Asking the running job to save and stop: by a signal to it, or by anybody who can write to the run's directory."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipelines.training.run_directory import RunDirectory

Notice = Callable[[str], None]


def request_stop(directory: RunDirectory) -> None:
    """Workers look for this file before every step, in evaluations, and while they wait for data."""
    directory.stop_path.parent.mkdir(parents=True, exist_ok=True)
    directory.stop_path.touch()


@contextmanager
def stopping_on_signals(
    directory: RunDirectory, notice: Notice, signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """These signals ask the workers to save and stop. Only the main thread can install handlers."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(signum: int, frame: object) -> None:
        request_stop(directory)
        notice(f"{signal.Signals(signum).name}: saving a checkpoint, then stopping.")

    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
