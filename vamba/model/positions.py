"""Rotary positions: the language model's three-axis form (M-RoPE) and the tower's two-axis form.

Each returns one (cos, sin) pair that all layers share; `rotate` applies it. Frequencies come in halves, as in Qwen2-VL:
value j and value j + D/2 of a head turn together.

Shapes: T tokens, P patches, H heads, D values per head.
"""

from __future__ import annotations

import torch
from torch import Tensor

Rotary = tuple[Tensor, Tensor]
"""(cos, sin), each (T, 1, D)."""


def text_rotary(position_ids_T: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotary:
    """Text positions are equal on all three axes, which is plain RoPE."""
    frequencies = _frequencies(position_ids_T, head_dim, theta, dtype)
    return _rotary(position_ids_T[:, None].to(_wide(dtype)) * frequencies, dtype)


def video_rotary(
    position_ids_3M: Tensor, section: tuple[int, int, int], head_dim: int, theta: float, dtype: torch.dtype
) -> Rotary:
    """Video positions: of the frequencies, `section` follow the frame pair, the row and the column."""
    # Not an index by a list: that would be a tensor made on the host, and copied, in every pass.
    positions_MF = torch.cat([position_ids_3M[axis, :, None].expand(-1, n) for axis, n in enumerate(section)], dim=1)
    return _rotary(positions_MF.to(_wide(dtype)) * _frequencies(position_ids_3M, head_dim, theta, dtype), dtype)


def patch_rotary(position_ids_P2: Tensor, head_dim: int, dtype: torch.dtype, theta: float = 10_000.0) -> Rotary:
    """The tower's positions: half of the frequencies follow the row, half the column."""
    freqs = _frequencies(position_ids_P2, head_dim // 2, theta, dtype)
    return _rotary((position_ids_P2[..., None].to(_wide(dtype)) * freqs).flatten(1), dtype)


def rotate(x_THD: Tensor, rotary: Rotary) -> Tensor:
    """Turn each head by its token's angle."""
    cos, sin = rotary
    first, second = x_THD.chunk(2, dim=-1)
    return x_THD * cos + torch.cat([-second, first], dim=-1) * sin


def _frequencies(like: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Tensor:
    steps = torch.arange(0, head_dim, 2, device=like.device, dtype=torch.int64).to(_wide(dtype))
    return 1.0 / (theta ** (steps / head_dim))


def _rotary(angles: Tensor, dtype: torch.dtype) -> Rotary:
    doubled = torch.cat([angles, angles], dim=-1)[..., None, :]
    return doubled.cos().to(dtype), doubled.sin().to(dtype)


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
