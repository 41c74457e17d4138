"""The GPU benchmark rehearsed on the CPU: every path runs, every check holds, and the report says what it is of."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.architecture.sources import ROOT


def rehearse(out: Path, **environment: str) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.kernels", "--dry-run", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert report["ok"] and report["dry_run"] and report["machine"]["device"] == "cpu"
    assert report["command"].endswith(f"--dry-run --out {out}")
    return report


def backends(report: dict[str, Any], rows: str, operation: str) -> set[str]:
    return {row["backend"] for row in report[rows] if row["operation"] == operation}


def test_with_torch_alone(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "new" / "report.json", TRITON_INTERPRET="0")
    assert report["backends"]["scan"] == ["reference", "torch"]
    assert {row["operation"] for row in report["checks"]} == {"conv", "scan", "attention", "mixer"}
    assert {row["passes"] for row in report["timings"]} == {"forward", "both"}


@pytest.mark.slow
def test_with_triton_in_the_interpreter(tmp_path: Path) -> None:
    report = rehearse(tmp_path / "report.json", TRITON_INTERPRET="1")
    for rows in ("checks", "timings"):
        assert backends(report, rows, "conv") == {"torch", "triton"}
        assert backends(report, rows, "scan") == {"torch", "mamba_ssm"}
        assert "triton + mamba_ssm" in backends(report, rows, "mixer")
    assert not report["warm_problems"]
    in_parts, whole = report["wrap"]
    assert in_parts["split"] and len(in_parts["calls"]) > 1
    assert not whole["split"] and whole["calls"] == [in_parts["tokens"]]
    assert whole["error"] < 1e-2


def test_without_a_gpu_nothing_is_measured(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu.kernels", "--out", str(tmp_path / "report.json")]
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode != 0 and "--dry-run" in done.stderr
    assert not list(tmp_path.iterdir())
