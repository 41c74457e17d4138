"""The tables of docs/reliability.md, between two markers."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.cluster.accounting import Cost

BEGIN, END = "<!-- written by `make cluster-test` -->", "<!-- end -->"


def write_between_markers(page: Path, text: str) -> None:
    """Replaces what stands between the markers."""
    content = page.read_text()
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin and end, f"{page} lacks the lines {BEGIN} and {END}"
    page.write_text(f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}")


def cost_table(costs: Sequence[Cost]) -> str:
    """One line a fault, in the order in which they struck."""
    lines = [
        "| fault | what was done | training paused | new steps again after | steps trained again | failure budget |",
        "|---|---|---|---|---|---|",
    ]
    for cost in costs:
        fault = cost.fault
        used = f"{cost.groups} used" if fault.budget == "used" else fault.budget
        paused, back = f"{cost.paused_s:.1f} s", f"{max(0.0, cost.back_after_s):.1f} s"
        cells = (fault.name, fault.how, paused, back, str(cost.lost_steps), used)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def this_machine() -> str:
    """Cores, memory and versions, in words."""
    import ray
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"{len(os.sched_getaffinity(0))} cores of {platform.machine()}, {memory:.0f} GiB, Python "
        f"{platform.python_version()}, Ray {ray.__version__}, torch {torch.__version__}"
    )
