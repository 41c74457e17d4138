"""The machine a job runs on, sampled every few seconds into the run directory: processors, memory, GPUs.

Names are those of MLflow's own system metrics, so that its pages find them. A sample's step is its time in seconds
since the run was created: it grows across restarts, and no two samples share one.
"""

from __future__ import annotations

import shutil
import subprocess
import threading
import time

from pipelines.training.json_lines import append_line
from pipelines.training.run_directory import RunDirectory

PREFIX = "system/"
ALWAYS_PRESENT = PREFIX + "cpu_utilization_percentage"
_NVIDIA_SMI_TIMEOUT_S = 10.0


class MachineSampler:
    """Samples on a thread of its own until it is closed. What can't be measured is left out."""

    def __init__(self, directory: RunDirectory, every_s: float) -> None:
        self._path, self._created = directory.machine_path, created(directory)
        self._every_s = every_s
        self._last_step = -1
        self._nvidia_smi = shutil.which("nvidia-smi")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="machine-sampler", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        self._thread.join(timeout=_NVIDIA_SMI_TIMEOUT_S)

    def _sample(self) -> None:
        import psutil

        psutil.cpu_percent()  # counts from here
        while not self._closing.wait(self._every_s):
            now = time.time()
            step = int(now - self._created)
            if step <= self._last_step:
                continue
            self._last_step = step
            memory = psutil.virtual_memory()
            values = {
                ALWAYS_PRESENT: psutil.cpu_percent(),
                PREFIX + "system_memory_usage_megabytes": round(memory.used / 1e6, 1),
                PREFIX + "system_memory_usage_percentage": memory.percent,
                **self._gpus(),
            }
            try:
                append_line(self._path, {"time": round(now, 3), "step": step, "values": values})
            except OSError:  # a full disk: training has its own rules for that
                continue

    def _gpus(self) -> dict[str, float]:
        if self._nvidia_smi is None:
            return {}
        fields = "index,utilization.gpu,memory.used,power.draw"
        command = [self._nvidia_smi, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_NVIDIA_SMI_TIMEOUT_S, check=True)
        except (OSError, subprocess.SubprocessError):
            return {}
        return parse_gpus(done.stdout)


def parse_gpus(listing: str) -> dict[str, float]:
    """Metrics of nvidia-smi's lines "index, utilisation in %, MiB used, W"; values it does not know are left out."""
    names = ("utilization_percentage", "memory_usage_megabytes", "power_usage_watts")
    scales = (1.0, 1.048576, 1.0)
    values = {}
    for line in listing.splitlines():
        index, *cells = (cell.strip() for cell in line.split(","))
        for name, scale, cell in zip(names, scales, cells, strict=False):
            if cell.replace(".", "", 1).isdigit():
                values[f"{PREFIX}gpu_{index}_{name}"] = round(float(cell) * scale, 1)
    return values


def created(directory: RunDirectory) -> float:
    """When the run was first started, in seconds since 1970; noted in its record by whoever asks first."""
    known = directory.read_run().get("created")
    if known is None:
        known = round(time.time(), 3)
        directory.update_run(created=known)
    return float(known)
