"""What the workers write, as lines for the user of the job."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from pipelines.training.run_directory import MetricsFollower, RunDirectory
from pipelines.training.run_log import describe_event

PROGRESS_EVERY_S = 2.0
_SILENT = {"notice", "checkpoint_committed", "finished", "job_started", "job_ended", "ray_started"}


class Progress:
    """Follows one run from now on."""

    def __init__(self, directory: RunDirectory, num_steps: int, notice: Callable[[str], None]) -> None:
        self._directory, self._num_steps, self._notice = directory, num_steps, notice
        self._follower = MetricsFollower(directory)
        for _ in self._follower.read_new():
            pass
        self._num_events = len(directory.read_events())
        self._window: list[dict[str, Any]] = []
        self._num_shown = 0  # of the window: its first, once a line has ended with it
        self._shown = time.monotonic()

    def show(self) -> None:
        """Print new events at once, and a progress line every two seconds."""
        events = self._directory.read_events()
        for event in events[self._num_events :]:
            text = None if event["event"] in _SILENT else describe_event(event)
            if text is not None:
                self._notice(text)
        self._num_events = len(events)
        self._window += [record for _, record in self._follower.read_new()]
        if len(self._window) > self._num_shown and time.monotonic() - self._shown >= PROGRESS_EVERY_S:
            self._shown = time.monotonic()
            self._notice(self._line())
            self._window, self._num_shown = self._window[-1:], 1

    def _line(self) -> str:
        last, first = self._window[-1], self._window[0]
        elapsed_s = last["time"] - first["time"]
        num_steps = last["step"] - first["step"]
        speed = ""
        if elapsed_s > 0 and num_steps > 0:
            tokens = sum(record["num_text_tokens"] + record["num_video_tokens"] for record in self._window[1:])
            remaining_s = (self._num_steps - last["step"]) * elapsed_s / num_steps
            speed = f"  {tokens / elapsed_s:,.0f} tokens/s  {int(remaining_s // 60)}:{int(remaining_s % 60):02d} left"
        done = f"step {last['step']}/{self._num_steps}"
        return f"{done}  loss {last['loss']:.4f}  lr {last['learning_rate']:.2e}{speed}"
