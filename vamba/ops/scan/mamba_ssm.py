"""The scan through mamba_ssm's Triton kernels, with the signature of `reference.scan`.

    x, dt, A, B, C, D ──> [single rows] ──> [parts of whole chunks] ──mamba_chunk_scan_combined──> y
                                               └──────── final state, float32 ───────> the next part

The kernels index with 32 bits and wrap in silence past 2^31 elements (state-spaces/mamba#1015). So every call is
measured first (`call_size`): where a batch does not fit, its rows run one by one; where a row does not fit, it is cut
at chunk boundaries and the state is carried. The kernels work in chunks anyway, so a cut there is not an approximation.

`initial_states` belong to sequence 0 there, so each part's `seq_idx` is counted from the sequence that its state is of.
Inside a call, chunk states are rounded to the dtype of C, and an initial state's gradient to that of x. On a GPU,
products of float32 inputs are TF32. Some gradients are summed by atomics, in any order, unless MAMBA_DETERMINISTIC=1 or
torch's deterministic algorithms are on.

Shapes: B batch, L length, H heads, P values per head, G groups of heads that share B and C, N state size.
"""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import triton
from torch import Tensor

from vamba.ops.scan.call_size import Sizes, tokens_per_call


@contextmanager
def _without_mamba_1() -> Iterator[None]:
    """mamba_ssm loads Mamba-1's compiled scan on import. Mamba-2 never calls it, and builds without nvcc lack it."""
    missing = importlib.util.find_spec("selective_scan_cuda") is None
    if missing:
        sys.modules["selective_scan_cuda"] = types.ModuleType("selective_scan_cuda")
    try:
        yield
    finally:
        if missing:
            del sys.modules["selective_scan_cuda"]


with _without_mamba_1():
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

MAX_OFFSET = 2**31 - 1
"""The largest element offset that the kernels can form."""


def scan(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    *,
    chunk_size: int,
    seq_idx_BL: Tensor | None = None,
    initial_state_BHPN: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(y_BLHP in x's dtype, final state_BHPN in float32). `dt` is positive, `a` negative.

    An initial state continues the first sequence of the row. The numbers in `seq_idx` never decrease along a row.
    """
    _check_inputs(x_BLHP, dt_BLH, b_BLGN, c_BLGN)
    batch, length = x_BLHP.shape[:2]
    sizes = Sizes.of(x_BLHP, dt_BLH, b_BLGN, c_BLGN, chunk_size)
    if batch > 1 and not sizes.fit(length, MAX_OFFSET):
        rows = []
        for row in range(batch):
            x, dt, b, c, seq_idx, state = (
                None if t is None else t[row : row + 1]
                for t in (x_BLHP, dt_BLH, b_BLGN, c_BLGN, seq_idx_BL, initial_state_BHPN)
            )
            assert x is not None and dt is not None and b is not None and c is not None
            rows.append(_scan_in_parts(x, dt, a_H, b, c, d_H, chunk_size, seq_idx, state))
        return torch.cat([y for y, _ in rows]), torch.cat([state for _, state in rows])
    return _scan_in_parts(x_BLHP, dt_BLH, a_H, b_BLGN, c_BLGN, d_H, chunk_size, seq_idx_BL, initial_state_BHPN)


def _scan_in_parts(
    x_BLHP: Tensor,
    dt_BLH: Tensor,
    a_H: Tensor,
    b_BLGN: Tensor,
    c_BLGN: Tensor,
    d_H: Tensor,
    chunk_size: int,
    seq_idx_BL: Tensor | None,
    state_BHPN: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """As few calls of equal length as the kernels' offsets allow, each continuing from the state before."""
    tokens = tokens_per_call(Sizes.of(x_BLHP, dt_BLH, b_BLGN, c_BLGN, chunk_size), x_BLHP.shape[1], MAX_OFFSET)
    outputs = []
    # split, not slices: its backward pass is one concatenation.
    for part, (x, dt, b, c) in enumerate(
        zip(*(t.split(tokens, 1) for t in (x_BLHP, dt_BLH, b_BLGN, c_BLGN)), strict=True)
    ):
        start = part * tokens
        seq_idx = None
        if seq_idx_BL is not None:
            # The state before a part is of the sequence of the token before it; where that ended, nothing is carried.
            of_state = seq_idx_BL[:, max(start - 1, 0), None]
            seq_idx = (seq_idx_BL[:, start : start + x.shape[1]] - of_state).to(torch.int32)
        y, state_BHPN = mamba_chunk_scan_combined(
            x,
            dt,
            a_H,
            b,
            c,
            chunk_size,
            D=d_H,
            initial_states=None if state_BHPN is None else state_BHPN.float(),
            seq_idx=seq_idx,
            return_final_states=True,
        )
        if y.requires_grad:
            # The gradient's strides are not known before it arrives; its kernels count in 32 bits as well.
            y.register_hook(Tensor.contiguous)
        outputs.append(y)
    assert state_BHPN is not None, "a row has at least one token"
    return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1), state_BHPN


def _check_inputs(x: Tensor, dt: Tensor, b: Tensor, c: Tensor) -> None:
    if not x.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"backends.scan 'mamba_ssm' got a tensor on {x.device}: it runs on NVIDIA GPUs; move the model there, or "
            "choose backends.scan 'torch'."
        )
    supported = (torch.float16, torch.bfloat16, torch.float32)
    if x.dtype not in supported or dt.dtype not in supported or not x.dtype == b.dtype == c.dtype:
        raise ValueError(
            f"backends.scan 'mamba_ssm' got x in {x.dtype}, dt in {dt.dtype}, B in {b.dtype} and C in {c.dtype}: x, "
            "B and C must have one dtype, and all must be float16, bfloat16 or float32. For float64 choose "
            "backends.scan 'torch'."
        )
