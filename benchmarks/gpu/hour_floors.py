"""The least time of each pass: operations of its matrix products at 800 TFLOP/s, what an H100 does of large ones.

Per video token of 640x360, derived from the 7B model's widths: vision tower 5.92 GFLOP, mixers and keys/values 4.75;
Qwen2-VL's layers 13.05 and, under a causal mask, 2 L x 3584 x 28 for L tokens. A training step runs the tower once, and
the rest forward, again for the backward pass, and backward (twice as much). Only video tokens count.
"""

from __future__ import annotations

PEAK_FLOPS = 800e12
_TOWER, _MIXERS, _DENSE, _PAIR = 5.92e9, 4.75e9, 13.05e9, 2 * 3584 * 28


def floor_seconds(model: str, passes: str, tokens: int) -> float:
    """model: `full attention`, or any other name for the hybrid. passes: `prefill` or `train step`."""
    layers = _DENSE + _PAIR * tokens if model == "full attention" else _MIXERS
    return tokens * (_TOWER + layers * (4 if passes == "train step" else 1)) / PEAK_FLOPS
