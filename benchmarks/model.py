"""Time and memory of the model's parts on this machine's CPU, each beside what it replaces, in one run.

    python -m benchmarks.model [--out benchmarks/results/model-cpu.json] [--plot docs/images/scan.png]
                               [--longest 262144] [--runs 3] [--threads 2]

    scan       the chunked scan against the recurrence at 4,096 tokens, forward, and forward with backward, by shape
    length     the chunked scan from 4,096 tokens to --longest: time per token, memory above the inputs, the slope
    packing    four short samples in one packed pass against the same four padded to the longest
    decoding   a token with the video's keys kept against one that computes them again, and the last mixer's share

`length` uses the 7B's shape per head (64 values, state 128, chunk 256) with 8 of its 112 heads. Ratios are medians of
ratios within a run; every length runs in a process of its own, whose peak memory is read when it ends.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.model_passes import decoding, packing
from vamba.ops.scan import chunked, reference
from vamba.ops.scan.blocks import block_of

BASE_TOKENS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """Of a mixer's scan. trains: whether the recurrence's backward pass fits into memory at 4,096 tokens."""

    heads: int
    values: int
    state: int
    chunk: int
    trains: bool = True


LENGTH_SHAPE = "7B, 8 of 112 heads"
SHAPES = {
    "tiny": Shape(heads=8, values=16, state=16, chunk=64),
    "small": Shape(heads=12, values=64, state=64, chunk=128),
    LENGTH_SHAPE: Shape(heads=8, values=64, state=128, chunk=256),
    "7B": Shape(heads=112, values=64, state=128, chunk=256, trains=False),
}


def scan_inputs(shape: Shape, tokens: int) -> dict[str, Any]:
    """Inputs as a trained mixer sees them: steps from 1e-3 to 0.1, decay rates from 1 to 16."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x_BLHP": normal(1, tokens, shape.heads, shape.values),
        "dt_BLH": torch.empty(1, tokens, shape.heads)
        .uniform_(math.log(1e-3), math.log(0.1), generator=generator)
        .exp_(),
        "a_H": -torch.empty(shape.heads).uniform_(1, 16, generator=generator),
        "b_BLGN": normal(1, tokens, 1, shape.state),
        "c_BLGN": normal(1, tokens, 1, shape.state),
        "d_H": torch.ones(shape.heads),
        "chunk_size": shape.chunk,
    }


def run_scan(scan: Callable[..., tuple[Tensor, Tensor]], inputs: dict[str, Any], *, backward: bool) -> None:
    """One pass; with `backward`, gradients of every input."""
    with torch.set_grad_enabled(backward):
        given = {
            name: value.detach().requires_grad_(backward) if isinstance(value, Tensor) else value
            for name, value in inputs.items()
        }
        y_BLHP, _ = scan(**given)
        if backward:
            y_BLHP.sum().backward()


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def scan_against_recurrence(shape: Shape, runs: int) -> dict[str, Any]:
    """Both in turn, `runs` times."""
    inputs = scan_inputs(shape, BASE_TOKENS)
    rows: dict[str, Any] = {"tokens": BASE_TOKENS}
    for name, backward in (("forward", False), ("forward_backward", True)):
        if backward and not shape.trains:
            continue
        run_scan(chunked.scan, inputs, backward=backward)
        pairs = [
            tuple(seconds(partial(run_scan, s, inputs, backward=backward)) for s in (reference.scan, chunked.scan))
            for _ in range(runs)
        ]
        rows[name] = {
            "recurrence_s": round(statistics.median(first for first, _ in pairs), 4),
            "chunked_s": round(statistics.median(second for _, second in pairs), 4),
            "speedup": round(statistics.median(first / second for first, second in pairs), 1),
        }
    rows["forward"]["floor_s"] = round(products_s(shape, BASE_TOKENS), 4)
    return rows


def products_s(shape: Shape, tokens: int) -> float:
    """What the matrix products of a forward pass take, hot in the cache: no chunked scan without gradients is faster.

    A token of a block of Q takes Q + 2 N multiply-adds for each of its H P values.
    """
    block = block_of(shape.chunk)
    a_nQQ, u_nQI = torch.randn(8, block, block), torch.randn(8, block, shape.heads * shape.values)
    y_nQI = torch.empty_like(u_nQI)
    product = partial(torch.bmm, a_nQQ, u_nQI, out=y_nQI)
    once = statistics.median(seconds(product) for _ in range(50)) / (8 * block * block)
    return once * tokens * (block + 2 * shape.state)


def one_length(tokens: int, runs: int) -> dict[str, Any]:
    """In a process of its own: seconds of each pass, and the peak memory above the inputs."""
    inputs = scan_inputs(SHAPES[LENGTH_SHAPE], tokens)
    row: dict[str, Any] = {"tokens": tokens}
    before = peak_mib()
    for name, backward in (("forward", False), ("forward_backward", True)):
        run_scan(chunked.scan, inputs, backward=backward)
        row[f"{name}_s"] = statistics.median(
            seconds(partial(run_scan, chunked.scan, inputs, backward=backward)) for _ in range(runs)
        )
        row[f"{name}_peak_mib"] = peak_mib() - before
    return row


def peak_mib() -> int:
    """Peak memory of this process so far. (getrusage would count what its parent had used before it.)"""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def over_length(longest: int, runs: int, threads: int) -> dict[str, Any]:
    """Every length, and the exponent e of time ~ length^e over the upper half of them."""
    lengths = [BASE_TOKENS * 2**power for power in range(int(math.log2(longest / BASE_TOKENS)) + 1)]
    rows = []
    for tokens in lengths:
        command = [sys.executable, "-m", "benchmarks.model", "--one-length", str(tokens)]
        command += ["--runs", str(runs), "--threads", str(threads)]
        rows.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(f"  {tokens:>8,} tokens: {rows[-1]['forward_s'] / tokens * 1e6:.2f} us per token", file=sys.stderr)
    exponents = {name: _exponent(rows[len(rows) // 2 - 1 :], f"{name}_s") for name in ("forward", "forward_backward")}
    return {"rows": rows, "exponent": exponents}


def _exponent(rows: list[dict[str, Any]], key: str) -> float:
    """Least-squares slope of log time over log length."""
    x, y = [math.log(row["tokens"]) for row in rows], [math.log(row[key]) for row in rows]
    return round(statistics.linear_regression(x, y).slope, 3)


def plot(result: dict[str, Any], path: Path) -> None:
    """Time over length against the line through the first point, and the speed-up in the title."""
    from matplotlib.figure import Figure

    rows = result["length"]["rows"]
    tokens = [row["tokens"] for row in rows]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, colour in (("forward", "#2563eb"), ("forward_backward", "#b45309")):
        label = f"chunked, {name.replace('_', ' and ')}: time ~ length^{result['length']['exponent'][name]:.2f}"
        axes.plot(tokens, [row[f"{name}_s"] for row in rows], "o-", color=colour, label=label)
        axes.plot(tokens, [rows[0][f"{name}_s"] * n / tokens[0] for n in tokens], ":", color=colour, linewidth=1)
        ratio = result["scan"][LENGTH_SHAPE][name]
        note = f"recurrence, {name.replace('_', ' and ')}: {ratio['speedup']:.0f}x the chunked scan's time"
        axes.plot([BASE_TOKENS], [ratio["recurrence_s"]], "s", color=colour, fillstyle="none", label=note)
    axes.set(xscale="log", yscale="log", xlabel="video tokens", ylabel="seconds")
    axes.set_xticks(tokens, [f"{n // 1024}k" for n in tokens])
    axes.set_title(f"The scan on the CPU, {LENGTH_SHAPE}; dotted: exactly linear", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--longest", type=int, default=262_144)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--one-length", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one_length:
        print(json.dumps(one_length(arguments.one_length, arguments.runs)))
        return
    result = {
        "command": " ".join(["python -m benchmarks.model", *sys.argv[1:]]),
        "machine": f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}",
        "scan": {name: scan_against_recurrence(shape, arguments.runs) for name, shape in SHAPES.items()},
        "length": over_length(arguments.longest, arguments.runs, arguments.threads),
        "packing": packing(arguments.runs),
        "decoding": decoding(arguments.runs),
    }
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(result, arguments.plot)


if __name__ == "__main__":
    main()
