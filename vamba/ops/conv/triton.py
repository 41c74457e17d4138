"""The causal depthwise convolution as two Triton kernels, channels last; signature and meaning as in `reference.conv`.

    projection ──x, a slice of a wider row──> conv_forward ──> y, final state
    dy, d(final state) ──> conv_backward ──> dx, d(initial state), partial sums ──> dweight, dbias

x is read where the projection put it, through its strides. A carried state and `seq_idx` may come together, sums are in
float32 (float64 for float64 inputs), offsets in 64 bits, and no gradient depends on the order in which programs run.
The backward pass recomputes the sum before the SiLU, so that only the inputs are kept.

Shapes: B batch, L length, C channels, W width.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from vamba.ops.conv import kernels

_MAX_WIDTH = 8
_FORWARD_TILE = (16, 128)
_BACKWARD_TILE = (8, 128)
"""Rows and channels of a tile. The backward tile keeps 2W-1 shifts and W+1 sums in registers: 168 to 255 of them per
thread at W = 4, without spilling."""
_BACKWARD_TILES = 32
"""Tiles of one backward program, so that the partial sums stay a few per cent of x."""
_NUM_WARPS = 4


def conv(
    x_BLC: Tensor,
    weight_CW: Tensor,
    bias_C: Tensor | None,
    *,
    seq_idx_BL: Tensor | None = None,
    initial_state_BCW: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(SiLU of the convolution_BLC, final state_BCW: the last W raw inputs of the row's last sequence).

    An initial state continues the first sequence of the row.
    """
    width = weight_CW.shape[1]
    if not x_BLC.is_cuda and not triton.knobs.runtime.interpret:
        raise ValueError(
            f"backends.conv 'triton' got a tensor on {x_BLC.device}: it runs on NVIDIA GPUs; move the model there, or "
            "choose backends.conv 'torch'."
        )
    if not 1 <= width <= _MAX_WIDTH:
        raise ValueError(
            f"The convolution is {width} wide; backends.conv 'triton' takes 1 to {_MAX_WIDTH}: choose 'torch'."
        )
    before_BWC = None if initial_state_BCW is None else initial_state_BCW.transpose(1, 2).to(x_BLC.dtype)
    y_BLC, final_BWC = _Convolution.apply(x_BLC, weight_CW, bias_C, seq_idx_BL, before_BWC)
    return y_BLC, final_BWC.transpose(1, 2)


class _Convolution(torch.autograd.Function):
    """States are (B, W, C) in here: neighbouring channels then lie side by side, as they do in x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, seq_idx: Tensor | None, before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        batch, length, channels = x.shape
        width = weight.shape[1]
        weight = weight.contiguous()
        bias, seq_idx, before = _contiguous(bias), _contiguous(seq_idx), _contiguous(before)
        y = x.new_empty(batch, length, channels)
        final = x.new_empty(batch, width, channels)
        block_l, block_c = _FORWARD_TILE
        grid = (triton.cdiv(length, block_l), triton.cdiv(channels, block_c), batch)
        with torch.cuda.device_of(x):
            kernels.conv_forward[grid](
                x, weight, _or(bias, weight), _or(seq_idx, x), _or(before, x), y, final,
                length, channels, *x.stride(),
                WIDTH=width, HAS_BIAS=bias is not None, HAS_SEQ=seq_idx is not None, HAS_STATE=before is not None,
                ACC=_sum_dtype(x), BLOCK_L=block_l, BLOCK_C=block_c, BLOCK_W=triton.next_power_of_2(width),
                num_warps=_NUM_WARPS,
            )  # fmt: skip
        ctx.save_for_backward(x, weight, bias, seq_idx, before)
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, seq_idx, before = ctx.saved_tensors
        batch, length, channels = x.shape
        width = weight.shape[1]
        dy = x.new_zeros(batch, length, channels) if grads[0] is None else grads[0].contiguous()
        dfinal = _contiguous(grads[1])
        dx = torch.empty_like(dy)
        dbefore = None if before is None else torch.empty_like(before)
        block_l, block_c = _BACKWARD_TILE
        rows = length if before is None else length + block_l
        splits = triton.cdiv(rows, block_l * _BACKWARD_TILES)
        sums = torch.promote_types(x.dtype, torch.float32)
        partial = x.new_empty(batch * splits, width + 1, channels, dtype=sums)
        with torch.cuda.device_of(x):
            kernels.conv_backward[(splits, triton.cdiv(channels, block_c), batch)](
                x, weight, _or(bias, weight), _or(seq_idx, x), _or(before, x), dy, _or(dfinal, dy),
                dx, _or(dbefore, dx), partial, length, channels, *x.stride(),
                WIDTH=width, HAS_BIAS=bias is not None, HAS_SEQ=seq_idx is not None, HAS_STATE=before is not None,
                HAS_DFINAL=dfinal is not None, ACC=_sum_dtype(x), TILES=_BACKWARD_TILES, BLOCK_L=block_l,
                BLOCK_C=block_c, num_warps=_NUM_WARPS,
            )  # fmt: skip
        total = partial.sum(0)
        dweight = total[:width].flip(0).T.to(weight.dtype)
        return dx, dweight, None if bias is None else total[width].to(bias.dtype), None, dbefore


def _sum_dtype(x: Tensor) -> Any:
    return tl.float64 if x.dtype == torch.float64 else tl.float32


def _contiguous(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _or(tensor: Tensor | None, any_pointer: Tensor) -> Tensor:
    """A kernel argument is never absent: what is not there is not read either."""
    return any_pointer if tensor is None else tensor
