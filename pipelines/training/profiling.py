"""PyTorch's profiler for a few steps of a running job, when somebody asks for it.

    vamba runs profile RUN --from 41 --steps 3 ──> control/profile ── read by rank 0 after a step ──> 3 steps profiled
        ──> profiles/steps-000041-000043.trace.json.gz   for https://ui.perfetto.dev or chrome://tracing
            profiles/steps-000041-000043.txt             operators by their own time

The trace is of the first rank, from the end of one step to the end of another, so waiting for data, recording and
checkpoints are on it. A profiled step computes what it would have computed; it takes longer, and while the files are
written all ranks wait for the first.
"""

from __future__ import annotations

import os
from typing import Any

from pipelines.training.run_directory import RunDirectory, read_json, write_json

MAX_STEPS = 100
_ROWS = 40


def request_profile(directory: RunDirectory, num_steps: int, *, first_step: int = 0) -> None:
    """Ask the job that trains this run to profile so many steps from `first_step` on, or its next ones.

    Raises ValueError for a count out of bounds, or a first step that was trained already.
    """
    if not 1 <= num_steps <= MAX_STEPS:
        raise ValueError(f"--steps is {num_steps}; a profile is of 1 to {MAX_STEPS} steps: its file grows with each.")
    newest = max((record["step"] for _, record in directory.read_metrics()), default=0)
    if first_step and first_step <= newest:
        raise ValueError(f"--from is {first_step}, and run {directory.name!r} has trained step {newest} already.")
    directory.profile_path.parent.mkdir(parents=True, exist_ok=True)
    write_json(directory.profile_path, {"steps": num_steps, "from": first_step})


class Profiling:
    """The profiler of one rank. Costs a look for a file each step while nobody asks."""

    def __init__(self, directory: RunDirectory, *, on_gpu: bool) -> None:
        self._directory, self._on_gpu = directory, on_gpu
        self._profiler: Any = None
        self._first = self._last = 0

    def after_step(self, step: int) -> None:
        """Begin what was asked for, end what is complete. step: number of the step that has just been recorded."""
        if self._profiler is not None:
            if step >= self._last:
                self._end(step)
        elif os.path.exists(self._directory.profile_path):
            num_steps, first_step = self._asked()
            if step + 1 >= first_step:
                self._begin(step, num_steps)

    def close(self, step: int) -> None:
        """Write what there is when training ends within the steps asked for."""
        if self._profiler is not None:
            self._end(step)

    def _asked(self) -> tuple[int, int]:
        """(number of steps, the first of them, 0 for the next)."""
        try:
            asked = read_json(self._directory.profile_path)
            return int(asked["steps"]), int(asked.get("from", 0))
        except (ValueError, KeyError, TypeError, FileNotFoundError):
            return 1, 0  # an empty file, made by hand

    def _begin(self, step: int, num_steps: int) -> None:
        self._directory.profile_path.unlink(missing_ok=True)
        from torch.profiler import ProfilerActivity, profile

        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._on_gpu else [])]
        self._profiler = profile(activities=activities, profile_memory=True)
        self._first, self._last = step + 1, step + max(1, min(num_steps, MAX_STEPS))
        self._profiler.start()

    def _end(self, step: int) -> None:
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        if step < self._first:
            return
        try:
            self._write(profiler, step)
        except OSError as error:  # a full disk must not end a run for a trace
            self._directory.append_event("profile_lost", step=step, reason=str(error))

    def _write(self, profiler: Any, step: int) -> None:
        name = f"steps-{self._first:06d}-{step:06d}"
        self._directory.profiles.mkdir(exist_ok=True)
        trace = self._directory.profiles / f"{name}.trace.json.gz"
        temporary = self._directory.profiles / f".{name}.json.gz"
        profiler.export_chrome_trace(str(temporary))
        temporary.replace(trace)
        key = "self_device_time_total" if self._on_gpu else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=key, row_limit=_ROWS, max_name_column_width=60)
        (self._directory.profiles / f"{name}.txt").write_text(table + "\n")
        self._directory.append_event("profiled", first_step=self._first, last_step=step, trace=str(trace))
