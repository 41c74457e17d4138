"""What a rank can say of its device and process beside the step's own result: memory, and the share of the peak used.

The peak of a device is what its maker states for dense matrix products in the run's precision, or what the user says
(`workers.peak_tflops`). Where neither is known, no share is reported.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipelines.training.config import TrainingConfig

if TYPE_CHECKING:
    from vamba.train.step import StepResult

# First match counts. TFLOP/s in bfloat16 on tensor cores without sparsity, and in float32 without tensor cores, where
# the data sheet names it.
_PEAK_TFLOPS: tuple[tuple[str, float, float | None], ...] = (
    (r"\bMIG\b", 0.0, None),
    (r"\bB200\b", 2250.0, None),
    (r"\bH200\b", 989.0, 67.0),
    (r"\bH100 NVL\b", 835.0, 60.0),
    (r"\bH100 PCIe\b", 756.0, 51.0),
    (r"\bH100\b", 989.0, 67.0),
    (r"\bA100\b", 312.0, 19.5),
    (r"\bL40S\b", 362.0, 91.6),
    (r"\bL4\b", 121.0, 30.3),
)


def peak_flops(config: TrainingConfig, device_name: str) -> float | None:
    """Operations per second that one worker's device could do at most; None where unknown."""
    if config.workers.peak_tflops is not None:
        return config.workers.peak_tflops * 1e12
    for pattern, bfloat16, float32 in _PEAK_TFLOPS:
        if re.search(pattern, device_name):
            peak = bfloat16 if config.parallel.compute_dtype == "bfloat16" else float32
            return peak * 1e12 if peak else None
    return None


class StepMeasures:
    """Adds to a step's record what only this process knows. on_gpu: whether it trains on one."""

    def __init__(self, config: TrainingConfig, world_size: int) -> None:
        """Call it in the worker, with its device chosen."""
        import psutil

        self.on_gpu = config.workers.device == "cuda"
        self._process = psutil.Process()
        name = ""
        if self.on_gpu:
            import torch

            name = torch.cuda.get_device_name()
        peak = peak_flops(config, name)
        self._peak_flops = None if peak is None else peak * world_size

    def of(self, result: StepResult) -> dict[str, float]:
        """memory_bytes: the most that was allocated on the GPU since the last step, or the process's resident memory.
        mfu: model operations per second over the peak of all devices, if both are known."""
        measured: dict[str, float] = {"memory_bytes": self._memory_bytes()}
        step_s = sum(result.seconds.values())
        if self._peak_flops and result.flops and step_s:
            measured["mfu"] = round(result.flops / step_s / self._peak_flops, 6)
        return measured

    def _memory_bytes(self) -> int:
        if not self.on_gpu:
            return int(self._process.memory_info().rss)
        import torch

        most = torch.cuda.max_memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        return int(most)
