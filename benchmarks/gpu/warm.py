"""Compiles mamba_ssm's kernels in parallel, so that tuning them in the measuring process finds them in Triton's cache.

The kernels try about a hundred configurations, at seconds of compilation each. Each process here takes a share of every
kernel's configurations and runs one forward and backward scan of the timed shape: `python -m benchmarks.gpu.warm 3 12`.
"""

from __future__ import annotations

import argparse
import subprocess
import time

import torch

from benchmarks.gpu.inputs import SEVEN_B, TINY, scan_inputs
from benchmarks.gpu.machine import Machine, configurations, prepare, run_module

_PROCESSES = 12


def start(machine: Machine) -> list[subprocess.Popen[str]]:
    processes = _PROCESSES if machine.is_gpu else 1
    options = [] if machine.is_gpu else ["--dry-run"]
    return [run_module("benchmarks.gpu.warm", str(share), str(processes), *options) for share in range(processes)]


def finish(children: list[subprocess.Popen[str]], timeout_s: float) -> list[str]:
    """What went wrong in them: nothing that a result depends on, as what is missing is compiled later."""
    problems = []
    end = time.monotonic() + timeout_s
    for child in children:
        try:
            output, _ = child.communicate(timeout=max(end - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            child.kill()
            output = f"not done in {timeout_s:.0f} s"
        if child.returncode != 0:
            problems.append((output.strip().splitlines() or ["no output"])[-1][-200:])
    return problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("share", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    machine = prepare(dry_run=arguments.dry_run, wheels=[])
    shapes = TINY if arguments.dry_run else SEVEN_B
    from vamba.ops.scan import mamba_ssm

    given = scan_inputs(shapes.mixer, 1, shapes.tokens, machine.device, machine.low_precision)
    leaves = [t.detach().requires_grad_() for t in given.values()]
    # The last one comes along, so that the tuner has a choice where a share's own one needs more memory than there is.
    with configurations(lambda configs: [c for i, c in enumerate(configs) if _is_mine(i, len(configs), arguments)]):
        y, final = mamba_ssm.scan(*leaves, chunk_size=shapes.mixer.chunk_size)
        torch.autograd.backward([y, final], [torch.ones_like(y), torch.ones_like(final)])


def _is_mine(index: int, count: int, arguments: argparse.Namespace) -> bool:
    return index % arguments.processes == arguments.share or index == count - 1


if __name__ == "__main__":
    main()
