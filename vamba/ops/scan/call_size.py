"""How many tokens one call of mamba_ssm's kernels may take before a 32-bit offset wraps.

The kernels form offsets as 32-bit sums over batch, token, head and value. So the largest offset into any tensor of a
call has to stay below 2^31: the inputs as they lie in memory, and every tensor that forward and backward allocate.
Those are listed here with their sizes. The arithmetic is on integers alone, so it is tested without a GPU.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

_MAX_PROGRAMS = 65535
"""What CUDA starts along the second and third axis of a grid."""
_SMALLEST_BLOCK = 16
"""No block of the kernels is smaller; the deterministic mode keeps one partial sum per block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """What the offsets of a call depend on, but for its number of tokens."""

    batch: int
    heads: int
    values: int
    groups: int
    state: int
    chunk: int
    input_strides: tuple[tuple[int, int], ...]
    """Per input: the offset of the last element of its first token, over all rows; the offset of one token more."""
    num_sms: int
    """Multiprocessors: the gradients of B and C are split so that they have work for all of them."""

    @classmethod
    def of(cls, x_BLHP: Tensor, dt_BLH: Tensor, b_BLGN: Tensor, c_BLGN: Tensor, chunk: int) -> Sizes:
        batch, _, heads, values = x_BLHP.shape
        return cls(
            batch=batch,
            heads=heads,
            values=values,
            groups=b_BLGN.shape[2],
            state=b_BLGN.shape[3],
            chunk=chunk,
            input_strides=tuple(_strides(t) for t in (x_BLHP, dt_BLH, b_BLGN, c_BLGN)),
            num_sms=torch.cuda.get_device_properties(x_BLHP.device).multi_processor_count,
        )

    def fit(self, tokens: int, max_offset: int) -> bool:
        """Whether a call with so many tokens stays within the offsets and within CUDA's grid."""
        chunks = math.ceil(tokens / self.chunk)
        programs = max(self.batch * chunks, chunks * self.groups, self.heads)
        return programs <= _MAX_PROGRAMS and self.largest_offset(tokens) <= max_offset

    def largest_offset(self, tokens: int) -> int:
        """The largest element offset into any tensor of a call with so many tokens, forward and backward."""
        inputs = (first + (tokens - 1) * step for first, step in self.input_strides)
        chunks = math.ceil(tokens / self.chunk)
        heads_per_group = self.heads // self.groups
        heads_per_program = max(min(math.ceil(self.batch * chunks * self.heads / self.num_sms), heads_per_group), 1)
        splits = math.ceil(heads_per_group / heads_per_program)
        blocks = math.ceil(max(self.values, self.state, self.chunk) / _SMALLEST_BLOCK)
        allocated = (
            tokens * self.heads * self.values,  # y and its gradient, the gradient of x, copies of x
            tokens * self.groups * self.state * splits,  # gradients of B and C
            chunks * self.chunk * self.heads * blocks,  # dt, its running sums, and their gradients per block
            chunks * self.chunk**2 * self.groups * splits,  # C B^T inside chunks, and its gradient
            chunks * self.heads * self.values * self.state,  # the states entering each chunk, and their gradients
        )
        return max(*inputs, self.batch * max(allocated) - 1)


@functools.lru_cache(maxsize=1024)
def tokens_per_call(sizes: Sizes, length: int, max_offset: int) -> int:
    """Tokens of each call but the last: all of them, or the whole chunks of as few equal parts as fit."""
    if sizes.fit(length, max_offset):
        return length
    chunks = math.ceil(length / sizes.chunk)
    for parts in range(2, chunks + 1):
        tokens = math.ceil(chunks / parts) * sizes.chunk
        last = length - (math.ceil(length / tokens) - 1) * tokens
        if sizes.fit(tokens, max_offset) and sizes.fit(last, max_offset):
            return tokens
    raise ValueError(
        f"The scan's kernels count to {max_offset:,} elements, and one chunk of {sizes.chunk} tokens reaches "
        f"{sizes.largest_offset(min(sizes.chunk, length)):,} ({sizes.batch} rows, {sizes.heads} heads of "
        f"{sizes.values} values, {sizes.groups} groups of {sizes.state} states): make chunk_size smaller, pass "
        "contiguous inputs, or choose backends.scan 'torch'."
    )


def _strides(tensor: Tensor) -> tuple[int, int]:
    reach = [(size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return sum(reach) - reach[1], tensor.stride(1)
