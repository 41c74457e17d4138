"""A machine whose memory another program takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.faults.conftest import long_config
from tests.faults.lives import assert_as_undisturbed, step_reached
from tests.faults.ray_jobs import ray_job

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(400)]

_GIB = 1024**3
_ROOM_BYTES = 5 * _GIB  # for the job


def test_out_of_memory(undisturbed_long: RunDirectory, scratch: Path) -> None:
    """Ray: the machine's memory runs out: Ray ends a process of the job, and the run goes on once there is some again.

    Ray acts at a share of the memory that the test sets, far below all there is."""
    memory = psutil.virtual_memory()
    if memory.available < _ROOM_BYTES + 2 * _GIB:
        pytest.skip(
            f"the job and Ray need {_ROOM_BYTES / _GIB + 2:.0f} GiB of free memory to come to their limit alone"
        )
    threshold = (memory.total - memory.available + _ROOM_BYTES) / memory.total
    environment = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    with ray_job(long_config(scratch, "out-of-memory"), scratch, environment=environment) as job:
        job.wait_until(step_reached(34))
        with taken(int(threshold * memory.total) - used_bytes() + _GIB):
            job.wait_until(anyone_gone(read_attempts(job.directory)[0].pids))
        assert job.wait() == 0, job.text
    assert read_attempts(job.directory)[1].resumed_from_step >= 30
    assert_as_undisturbed(job.directory, undisturbed_long)


def used_bytes() -> int:
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


@contextmanager
def taken(num_bytes: int) -> Iterator[None]:
    """Another process holds that much memory for the time of the block."""
    hold = "import sys, time; held = b'x' * int(sys.argv[1]); print(flush=True); time.sleep(600)"
    holder = subprocess.Popen([sys.executable, "-c", hold, str(max(num_bytes, 0))], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        yield
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def anyone_gone(pids: Sequence[int]) -> Callable[[RunDirectory], bool]:
    return lambda _: not all(map(psutil.pid_exists, pids))
