"""How both chunked scans cut a row: blocks of equal length, and what the bounds of packed sequences mask in them.

Shapes: B batch, L length, n blocks of Q tokens.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_LARGEST_BLOCK = 64
"""Fastest of 16 to 256 on a CPU, forward and backward, for 64 x 128 states and for 16 x 16 ones."""


class SequenceMasks(NamedTuple):
    """Where a block may look, when several sequences share its row."""

    pairs_BnQQ: Tensor  # tokens i and j belong to one sequence
    starts_BnQ: Tensor  # the token belongs to the sequence that comes in from the block before
    ends_BnQ: Tensor  # … to the sequence that goes on into the next block
    stays_Bn: Tensor  # the block is of one sequence, from the incoming one to the outgoing one


def block_of(chunk_size: int) -> int:
    """The largest block of at most `_LARGEST_BLOCK` that divides a chunk; a chunk without one stays whole."""
    blocks = (chunk_size // parts for parts in range(1, chunk_size + 1) if chunk_size % parts == 0)
    return next((block for block in blocks if 8 <= block <= _LARGEST_BLOCK), chunk_size)


def in_blocks(t_BLX: Tensor, block: int) -> Tensor:
    """(B, L, ...) -> (B, n, Q, ...), filled up with zeros: a token with dt = 0 changes nothing."""
    missing = -t_BLX.shape[1] % block
    padded = F.pad(t_BLX, (0, 0) * (t_BLX.ndim - 2) + (0, missing)) if missing else t_BLX
    return padded.unflatten(1, (-1, block))


def sequence_masks(seq_idx_BL: Tensor, seq_before_B: Tensor | None, block: int) -> SequenceMasks:
    """`seq_before_B` is the sequence that the incoming state belongs to, by default the first one of the row."""
    length = seq_idx_BL.shape[1]
    seq = F.pad(seq_idx_BL, (0, -length % block), mode="constant", value=-1)
    seq[:, length:] = seq_idx_BL[:, -1:]
    seq = seq.unflatten(1, (-1, block))
    last = seq[..., -1]
    first = seq[:, 0, 0] if seq_before_B is None else seq_before_B
    before = torch.cat([first[:, None], last[:, :-1]], dim=1)
    return SequenceMasks(
        pairs_BnQQ=seq[..., :, None] == seq[..., None, :],
        starts_BnQ=seq == before[..., None],
        ends_BnQ=seq == last[..., None],
        stays_Bn=last == before,
    )
