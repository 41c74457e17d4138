"""Where the measurements run: a GPU, or for a rehearsal the CPU, where Triton kernels need Triton's interpreter.

`prepare` comes before anything that imports Triton: it unpacks wheels that are not installed, and stands in for the
parts of `torch.cuda` that kernels ask for when they are interpreted.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
import types
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    device: torch.device
    interpreted: bool
    """Triton runs on the CPU."""

    @property
    def is_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def low_precision(self) -> torch.dtype:
        """bfloat16, which the interpreter gets wrong."""
        return torch.float16 if self.interpreted else torch.bfloat16

    def describe(self) -> dict[str, Any]:
        name = torch.cuda.get_device_name() if self.is_gpu else "cpu"
        found = {"device": name, "interpreted": self.interpreted, "python": sys.version.split()[0]}
        if self.is_gpu:
            found["capability"] = ".".join(map(str, torch.cuda.get_device_capability()))
            found["cuda"] = torch.version.cuda or ""
        for package in ("torch", "triton", "mamba-ssm", "flash-attn"):
            try:
                found[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                found[package] = None
        return found

    def seconds(self, call: Callable[[], Any], repeats: int) -> float:
        """The median time of a call that has run before, on the device's own clock."""
        if not self.is_gpu:
            times = []
            for _ in range(repeats):
                start = time.perf_counter()
                call()
                times.append(time.perf_counter() - start)
            return statistics.median(times)
        events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(repeats)]
        for start_event, end_event in events:
            start_event.record()
            call()
            end_event.record()
        torch.cuda.synchronize()
        return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3

    def peak_bytes(self, call: Callable[[], Any]) -> int | None:
        """What a call allocates at most, beyond what was there before."""
        if not self.is_gpu:
            return None
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    @contextlib.contextmanager
    def no_synchronization(self) -> Iterator[None]:
        """Inside, whatever makes the host wait for the GPU raises."""
        if not self.is_gpu:
            yield
            return
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def release(self) -> None:
        if self.is_gpu:
            torch.cuda.empty_cache()


def prepare(*, dry_run: bool, wheels: list[str]) -> Machine:
    """Makes kernels importable and says where to run. Raises ValueError where there is no GPU to measure."""
    for wheel in wheels:
        folder = tempfile.mkdtemp(prefix="wheel-")
        zipfile.ZipFile(wheel).extractall(folder)
        sys.path.insert(0, folder)
        # Child processes import from it as well.
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH")]))
    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not dry_run:
        if interpreted or not torch.cuda.is_available():
            raise ValueError("This measures a GPU: run it where torch sees one, or rehearse with --dry-run.")
        return Machine(device=torch.device("cuda"), interpreted=False)
    if interpreted:
        os.environ["MAMBA_DETERMINISTIC"] = "1"
        properties: Any = types.SimpleNamespace(multi_processor_count=4)
        torch.cuda.device = _NoDevice  # type: ignore[assignment, misc]
        torch.cuda.get_device_properties = lambda device=None: properties
    return Machine(device=torch.device("cpu"), interpreted=interpreted)


class _NoDevice(contextlib.nullcontext[None]):
    """Stands in for `torch.cuda.device`, which a build of torch without CUDA can't enter."""

    def __init__(self, device: object) -> None:
        super().__init__()


def problem_of(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def run_module(module: str, *arguments: str) -> subprocess.Popen[str]:
    """Starts one of these modules in a process of its own; what it measured is its last line."""
    command = [sys.executable, "-W", "ignore", "-m", module, *arguments]
    root = Path(__file__).resolve().parents[2]
    return subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def one_configuration() -> contextlib.AbstractContextManager[None]:
    """Inside, mamba_ssm's kernels are not tuned: each takes its smallest blocks. For checks, which need no speed."""

    def smallest(configs: list[Any]) -> list[Any]:
        return [min(configs, key=lambda config: math.prod(config.kwargs.values()) * config.num_stages)]

    return configurations(smallest)


@contextlib.contextmanager
def configurations(choose: Callable[[list[Any]], list[Any]]) -> Iterator[None]:
    """Inside, each of mamba_ssm's autotuned kernels tries only the configurations that `choose` keeps."""
    from triton.runtime.autotuner import Autotuner

    tuners = [
        value
        for name, module in list(sys.modules.items())
        if name.startswith("mamba_ssm.ops.triton.ssd_")
        for value in vars(module).values()
        if isinstance(value, Autotuner)
    ]
    kept = {id(tuner): tuner.configs for tuner in tuners}
    try:
        for tuner in tuners:
            tuner.configs = choose(kept[id(tuner)])
        yield
    finally:
        for tuner in tuners:
            tuner.configs = kept[id(tuner)]
