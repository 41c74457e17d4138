"""Checks and times every kernel of the model on one GPU, in one call of less than five minutes.

    python -m benchmarks.gpu.kernels --mamba-wheel mamba_ssm-2.3.2.post1-py3-none-any.whl
    TRITON_INTERPRET=1 python -m benchmarks.gpu.kernels --dry-run --out rehearsal.json      # on the CPU, tiny

    [compile in parallel] ─ checks against the definition ─ ceilings, timings ─ no synchronization ─ 2^31 ─> table, JSON

It needs torch, triton, transformers and einops; mamba-ssm comes as its wheel without compiled parts, which is unpacked
and not installed, and so may einops. What can't run is reported as such, and the rest goes on. Exit code 1 means that a
check failed. The figures are those of the device, the versions and the command that stand in the JSON beside them.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu import machine as machines

RESULTS = Path(__file__).resolve().parents[1] / "results"
_WARM_TIMEOUT_S = 120


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mamba-wheel", "--wheel", action="append", default=[], help="a wheel to import from; repeatable"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/kernels-DEVICE.json")
    parser.add_argument("--dry-run", action="store_true", help="every path at tiny size on the CPU")
    arguments = parser.parse_args()
    machine = machines.prepare(dry_run=arguments.dry_run, wheels=arguments.mamba_wheel)
    report: dict[str, Any] = {"machine": machine.describe(), "command": " ".join(sys.argv), "ok": False}
    slug = re.sub(r"[^a-z0-9]+", "-", report["machine"]["device"].lower()).strip("-")
    out = arguments.out or RESULTS / f"kernels-{slug}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    try:
        measure(machine, report, dry_run=arguments.dry_run)
    finally:
        # What was measured before something broke is written as well.
        out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"{out}, {report['seconds']:.0f} s")
    return 0 if report["ok"] else 1


def measure(machine: machines.Machine, report: dict[str, Any], *, dry_run: bool) -> None:
    """Fills the report, part by part, and prints each line as it is known."""
    # After `prepare`, because these import Triton.
    from benchmarks.gpu import checks, inputs, timings, warm, wrap
    from vamba.ops.backends import available

    started = time.perf_counter()
    shapes = inputs.TINY if dry_run else inputs.SEVEN_B
    report["dry_run"] = dry_run
    report["backends"] = {op: available(op, machine.device) for op in ("scan", "conv", "attention")}
    say(", ".join(f"{name} {value}" for name, value in report["machine"].items()))
    has_mamba = "mamba_ssm" in report["backends"]["scan"]
    children = warm.start(machine) if has_mamba else []

    report["checks"] = []
    for check in checks.run_checks(machine, shapes):
        report["checks"].append(check.to_dict())
        say_check(check)
    report["warm_problems"] = warm.finish(children, _WARM_TIMEOUT_S)
    ceilings = timings.measure_ceilings(machine, shapes)
    report["ceilings"] = {"matmul_flops": ceilings.matmul_flops, "copy_bytes": ceilings.copy_bytes}
    say(f"ceilings: {ceilings.matmul_flops / 1e12:.1f} TFLOP/s, {ceilings.copy_bytes / 1e9:.0f} GB/s")
    machine.release()
    report["timings"] = []
    for timing in timings.run_timings(machine, shapes):
        row = timing.to_dict(ceilings)
        report["timings"].append(row)
        say_timing(row)
    report["without_synchronization"] = timings.run_without_synchronization(machine, shapes)
    for row in report["without_synchronization"]:
        say(f"no synchronization  {row['backend']:20} {row['problem'] or 'holds'}")
    machine.release()
    report["wrap"] = wrap.run_wrap(machine, shapes) if has_mamba else []
    for row in report["wrap"]:
        say(f"2^31  {row['tokens']:9,} tokens  {'in parts' if row['split'] else 'whole':8}  {said(row)}")
    report["seconds"] = time.perf_counter() - started
    report["ok"] = is_ok(report)


def is_ok(report: dict[str, Any]) -> bool:
    """Everything that is a claim holds. Unsplit calls may fail: that they do is the finding."""
    split = [row for row in report["wrap"] if row["split"]]
    return (
        all(row["ok"] for row in report["checks"])
        and not any(row["problem"] for row in (*report["timings"], *report["without_synchronization"]))
        and all("problem" not in row and row["error"] < 3e-2 for row in split)
    )


def say(text: str) -> None:
    print(text, flush=True)


def say_check(check: Any) -> None:
    verdict = "ok  " if check.ok else "FAIL"
    found = check.problem or f"{check.error:.1e} in {check.worst} (allowed {check.tolerance:.0e})"
    say(f"{verdict} {check.operation:9} {check.backend:20} {check.dtype:8} {check.case:11} {found}")


def say_timing(row: dict[str, Any]) -> None:
    label = f"time {row['operation']:15} {row['backend']:20} {row['passes']:7} {row['size']:32}"
    if row["problem"]:
        say(f"{label} {row['problem']}")
        return
    peak = "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**30:6.2f} GiB"
    compute = f"{row['flops_per_s'] / 1e12:7.1f} TFLOP/s ({row['of_matmul']:4.0%})"
    memory = f"{row['bytes_per_s'] / 1e9:6.0f} GB/s ({row['of_copy']:4.0%})"
    say(f"{label} {row['seconds'] * 1e3:9.3f} ms {compute} {memory} {peak}")


def said(row: dict[str, Any]) -> str:
    if "problem" in row:
        return f"exit {row.get('exit')}: {row['problem']}"
    behind = f"{row['error_behind_2_31']:.1e} behind the 2^31st element"
    return f"{len(row['calls'])} calls, off by {row['error']:.1e}, {behind}"


if __name__ == "__main__":
    sys.exit(main())
