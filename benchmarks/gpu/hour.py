"""An hour of full-resolution video on one GPU: is it exact, what does it take, what would full attention take?

    python -m benchmarks.gpu.hour --mamba-wheel mamba_ssm-2.3.2.post1-py3-none-any.whl
    python -m benchmarks.gpu.hour --dry-run --out rehearsal.json                            # on the CPU, tiny

    [compile in parallel, 2^31 beside it] ─ kernels against the definition ─ streamed against one shot
        ─ time and memory of the 7B by length: streamed, one shot, full attention ─ many questions ─> table, targets, JSON

One call on an 80 GB card, less than nine minutes; it needs torch, triton, einops and transformers, and mamba-ssm as its wheel
without compiled parts. The weights are random: time and memory do not depend on them. The most important parts come first, a
part that has no time left is named instead, and the JSON is written after every measurement. Exit code 1: something that is
claimed does not hold, or was not measured.
"""  # noqa: E501

from __future__ import annotations

import argparse
import re
import sys
import threading
from pathlib import Path
from typing import Any

from benchmarks.gpu import machine as machines

RESULTS = Path(__file__).resolve().parents[1] / "results"
PARTS = ("exact", "costs")
_WARM_TIMEOUT_S, _WRAP_TIMEOUT_S = 60, 100
"""On a GPU: for compiling ahead, after the checks that run beside it, and for two long rows."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--mamba-wheel", "--wheel", action="append", default=[], help="a wheel to import from; repeatable"
    )
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/hour-DEVICE.json")
    parser.add_argument("--only", choices=PARTS, help="the checks, or the measurements")
    parser.add_argument("--dry-run", action="store_true", help="every path at tiny size on the CPU")
    arguments = parser.parse_args()
    machine = machines.prepare(dry_run=arguments.dry_run, wheels=arguments.mamba_wheel)
    # After `prepare`, because these import Triton.
    from benchmarks.gpu import hour_costs, hour_report, hour_targets
    from benchmarks.gpu.hour_pinned import set_allocator
    from benchmarks.gpu.hour_presets import HOUR, REHEARSAL
    from vamba.ops.backends import available

    if machine.is_gpu and "mamba_ssm" not in available("scan", machine.device):
        parser.error("mamba-ssm can't be imported, and nothing would be measured as it is used: name its --mamba-wheel")
    preset = REHEARSAL if arguments.dry_run else HOUR
    about = machine.describe()
    slug = re.sub(r"[^a-z0-9]+", "-", about["device"].lower()).strip("-")
    report = hour_report.Report(
        arguments.out or RESULTS / f"hour-{slug}.json",
        machine,
        preset.limit_s,
        {"machine": about, "command": " ".join(sys.argv), "dry_run": arguments.dry_run, "ok": False}
        | {"allocator": set_allocator(machine)},
    )
    hour_report.say(", ".join(f"{name} {value}" for name, value in about.items()))
    if arguments.only in (None, "exact"):
        check(machine, preset, report)
    if arguments.only in (None, "costs"):
        hour_costs.measure(machine, preset, report)
        report.values["targets"] = hour_targets.targets(report.values, preset)
    conclude(report, dry_run=arguments.dry_run)
    return 0 if report.values["ok"] else 1


def check(machine: machines.Machine, preset: Any, report: Any) -> None:
    """Everything that is right or wrong. Compiling for what is timed later, and the scan of long rows, run beside it in
    processes of their own: nothing is timed here."""
    from benchmarks.gpu import checks, hour_exact, hour_warm, warm, wrap
    from benchmarks.gpu.hour_report import say
    from benchmarks.gpu.kernels import said, say_check
    from vamba.ops.backends import available

    values = report.values
    has_mamba = "mamba_ssm" in available("scan", machine.device)
    children = hour_warm.start(machine) if has_mamba else []
    values["wrap"], values["checks"], values["exact"] = [], [], []

    def run_wrap() -> None:
        # Two at a time, as the GPU is shared with those that compile.
        timeout_s = _WRAP_TIMEOUT_S if machine.is_gpu else preset.limit_s
        values["wrap"] += wrap.run_wrap(machine, preset.shapes, at_once=2, timeout_s=timeout_s)

    beside = threading.Thread(target=run_wrap, daemon=True)
    if has_mamba:
        beside.start()

    def kernels() -> None:
        for found in checks.run_checks(machine, preset.shapes):
            values["checks"].append(found.to_dict())
            report.write()
            say_check(found)

    def exact() -> None:
        for row in hour_exact.run_exact(machine, preset):
            values["exact"].append(row)
            report.write()
            say(f"{'ok  ' if row['ok'] else 'FAIL'} streamed against one shot: {row}")

    report.run("kernels against the definition", 0.0, kernels)
    report.run("streamed against one shot", 0.0, exact)
    values["warm_problems"] = warm.finish(children, _WARM_TIMEOUT_S if machine.is_gpu else preset.limit_s)
    if values["warm_problems"]:
        say(f"not compiled ahead: {values['warm_problems']}")
    if has_mamba:
        beside.join()
        if not values["wrap"]:
            values["problems"].append("2^31: the scan of long rows did not run")
    for row in values["wrap"]:
        say(f"2^31  {row['tokens']:9,} tokens  {'in parts' if row['split'] else 'whole':8}  {said(row)}")
    report.note("checks_s", round(report.elapsed_s, 1))


def conclude(report: Any, *, dry_run: bool) -> None:
    """The table, the targets, and whether all holds. A rehearsal has no targets to meet."""
    from benchmarks.gpu.hour_report import HEADER, line_of, say

    values = report.values
    say(HEADER)
    for row in values["rows"]:
        say(line_of(row))
    for target in values.get("targets", ()):
        measured = "not measured" if target["measured"] is None else f"{target['measured']:,.4g}"
        say(f"{'met ' if target['ok'] else 'MISS'} {target['name']}: {measured}, {target['wanted']}")
    split = [row for row in values.get("wrap", ()) if row["split"]]
    values["ok"] = (
        all(row["ok"] for row in (*values.get("checks", ()), *values.get("exact", ())))
        and all("problem" not in row and row["error"] < 3e-2 for row in split)
        and not values["problems"]
        and (dry_run or all(target["ok"] for target in values.get("targets", ())))
    )
    report.write()
    say(f"{'all holds' if values['ok'] else 'NOT ALL HOLDS'}, {report.elapsed_s:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
