"""Runs Triton kernels on the CPU, in Triton's interpreter, in a process of its own.

The interpreter is chosen by a variable that Triton reads on import, and mamba_ssm asks for a GPU's properties. Both are
settled here before either is imported, where no other test can see it:

    test ──run_cases(module)──> python -m tests.vamba.ops.interpreted module ──a JSON line per case──> {case: problem}

A module of cases has `CASES`, functions by name; a case passes by returning. Importing it must not load Triton.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import subprocess
import sys
import traceback
import types
from typing import Any

from tests.architecture.sources import ROOT

ENVIRONMENT = {"TRITON_INTERPRET": "1", "MAMBA_DETERMINISTIC": "1", "OMP_NUM_THREADS": "1"}


def run_cases(module: str) -> dict[str, str | None]:
    """What went wrong in each case of a module; None where nothing did."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.vamba.ops.interpreted", module]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | ENVIRONMENT, capture_output=True, text=True, timeout=500)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"case"')]
    assert results and done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return {result["case"]: result["problem"] for result in results}


class _NoDevice(contextlib.nullcontext[None]):
    """Stands in for `torch.cuda.device`, which a build of torch without CUDA can't enter."""

    def __init__(self, device: object) -> None:
        super().__init__()


def main() -> None:
    import torch

    properties: Any = types.SimpleNamespace(multi_processor_count=4)
    torch.cuda.device = _NoDevice  # type: ignore[misc, assignment]
    torch.cuda.get_device_properties = lambda device=None: properties
    for name, case in importlib.import_module(sys.argv[1]).CASES.items():
        problem = None
        try:
            case()
        except Exception:
            problem = traceback.format_exc()
        print(json.dumps({"case": name, "problem": problem}), flush=True)


if __name__ == "__main__":
    main()
