"""One scan of a row so long that 32-bit offsets wrap, against torch in pieces: `python -m benchmarks.gpu.wrap`.

x, B and C are slices of the whole projection's row, as a fused mixer has them: at the 7B width the 2^31st element lies
at token 146,048, between 900 and 1,024 frames of 640x360. `--max-offset` is the limit that the adapter splits at; far
beyond 2^31 it does not split, and the kernels wrap: wrong numbers, or an illegal access that ends the process. That is
why each case has a process of its own. The last line is the result as JSON.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from typing import Any

import torch

from benchmarks.gpu.inputs import SEVEN_B, TINY, Shapes, scan_inputs
from benchmarks.gpu.machine import Machine, one_configuration, prepare, run_module

_PIECE_CHUNKS = 19
"""Chunks of a piece of the torch scan, which keeps the matrices of a whole piece in memory."""
_AT_ONCE = 4
"""Cases that run side by side; each should take some 13 GB."""
_TIMEOUT_S = 150


def run_wrap(
    machine: Machine, shapes: Shapes, *, at_once: int = _AT_ONCE, timeout_s: float = _TIMEOUT_S
) -> list[dict[str, Any]]:
    """Each row in parts and whole; what a process said, or how it ended."""
    split_at = 2**31 - 1 if machine.is_gpu else 2047
    cases = [(tokens, limit) for tokens in shapes.wrap_tokens for limit in (split_at, 2**62)]
    results = []
    for start in range(0, len(cases), at_once):
        some = cases[start : start + at_once]
        options = [] if machine.is_gpu else ["--dry-run"]
        children = [
            run_module("benchmarks.gpu.wrap", "--tokens", str(tokens), "--max-offset", str(limit), *options)
            for tokens, limit in some
        ]
        for (tokens, limit), child in zip(some, children, strict=True):
            results.append({"tokens": tokens, "split": limit == split_at} | _outcome(child, timeout_s))
    return results


def _outcome(child: subprocess.Popen[str], timeout_s: float) -> dict[str, Any]:
    try:
        output, _ = child.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        child.kill()
        return {"problem": f"no answer in {timeout_s:.0f} s"}
    lines = output.strip().splitlines()
    if child.returncode == 0 and lines:
        return json.loads(lines[-1])
    errors = [line for line in lines if "Error" in line] or lines or ["no output"]
    return {"problem": errors[-1][-300:], "exit": child.returncode}


def measure(machine: Machine, shapes: Shapes, tokens: int, max_offset: int) -> dict[str, Any]:
    """The relative error of a scan of so many tokens, over all of them and over those behind the 2^31st element."""
    from vamba.ops.scan import chunked, mamba_ssm

    config = shapes.mixer
    row = config.d_inner + config.conv_dim + config.num_heads
    given = scan_inputs(config, 1, tokens, machine.device, machine.low_precision, row)
    calls: list[int] = []
    kernels = mamba_ssm.mamba_chunk_scan_combined

    def counted(x: torch.Tensor, *args: Any, **options: Any) -> Any:
        calls.append(x.shape[1])
        return kernels(x, *args, **options)

    mamba_ssm.MAX_OFFSET, mamba_ssm.mamba_chunk_scan_combined = max_offset, counted
    wrap_token = 2**31 // row
    with torch.no_grad(), one_configuration():
        y, final = mamba_ssm.scan(*given.values(), chunk_size=config.chunk_size)
        state, piece = None, _PIECE_CHUNKS * config.chunk_size
        difference, size = torch.zeros(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
        for start in range(0, tokens, piece):
            part = slice(start, start + piece)
            streamed = [t[:, part] if name in ("x", "dt", "b", "c") else t for name, t in given.items()]
            wanted, state = chunked.scan(*streamed, chunk_size=config.chunk_size, initial_state_BHPN=state)
            for index, first in enumerate((0, max(wrap_token - start, 0))):
                difference[index] += (y[:, part][:, first:].float() - wanted[:, first:].float()).square().sum().item()
                size[index] += wanted[:, first:].float().square().sum().item()
    assert state is not None
    whole, behind = (difference / size.clamp(min=1e-30)).sqrt().tolist()
    state_error = ((final - state).norm() / state.norm()).item()
    return {"calls": calls, "row": row, "error": whole, "error_behind_2_31": behind, "state_error": state_error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--max-offset", type=int, required=True)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    machine = prepare(dry_run=arguments.dry_run, wheels=[])
    shapes = TINY if arguments.dry_run else SEVEN_B
    print(json.dumps(measure(machine, shapes, arguments.tokens, arguments.max_offset)))


if __name__ == "__main__":
    main()
