"""The shapes that are checked and timed, and random tensors of them.

`SEVEN_B` is the 7B model's mixer and attention; `TINY` is a rehearsal. Values are of the size a trained model has: `dt`
around 0.05, decays between 1 and 16, so that states remember hundreds of tokens and nothing overflows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vamba.model.config import MixerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    mixer: MixerConfig
    """Width, heads and states of the timed mixer."""
    check_hidden: int
    """Width of the checked one; with few heads the definition, token by token, takes seconds."""
    check_lengths: tuple[int, ...]
    """Tokens per row; primes, so that no block divides them."""
    tokens: int
    """Video tokens of a timed call."""
    text_lengths: tuple[int, ...]
    """Packed text of the timed self-attention."""
    cross_queries: int
    cross_keys: int
    heads: int
    kv_heads: int
    head_dim: int
    wrap_tokens: tuple[int, ...]
    """Rows that are scanned whole and in parts: 900 and 1,024 frames of 640x360."""
    repeats: int
    matmul: int
    """Rows and columns of the matrix product that is the ceiling of compute."""
    copy_bytes: int


SEVEN_B = Shapes(
    mixer=MixerConfig(enable=True),
    check_hidden=128,
    check_lengths=(3, 509),
    tokens=16384,
    text_lengths=(2048, 1536, 509, 3),
    cross_queries=64,
    cross_keys=153_088,
    heads=28,
    kv_heads=4,
    head_dim=128,
    wrap_tokens=(134_550, 153_088),
    repeats=20,
    matmul=8192,
    copy_bytes=2 << 30,
)
TINY = Shapes(
    mixer=MixerConfig(enable=True, hidden_dim=16, d_state=16, headdim=16, chunk_size=16),
    check_hidden=16,
    check_lengths=(3, 37),
    tokens=32,
    text_lengths=(7, 5),
    cross_queries=3,
    cross_keys=29,
    heads=4,
    kv_heads=2,
    head_dim=16,
    wrap_tokens=(61,),
    repeats=1,
    matmul=64,
    copy_bytes=1 << 16,
)


def normal(*shape: int, device: torch.device, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(*shape, generator=generator, device=device, dtype=torch.float32).to(dtype)


def scan_inputs(
    config: MixerConfig, batch: int, length: int, device: torch.device, dtype: torch.dtype, row: int | None = None
) -> dict[str, Tensor]:
    """x, dt, a, b, c, d by name. x, b and c are slices of one row, which has `row` channels or just theirs."""
    heads, values, groups, states = config.num_heads, config.headdim, config.ngroups, config.d_state
    shared = groups * states
    # Drawn in the final dtype: in float32 the widest row of an hour would take 9 GB.
    wide = torch.empty(batch, length, row or config.conv_dim, device=device, dtype=dtype)
    wide.normal_(generator=torch.Generator(device).manual_seed(1))
    x, b, c = wide[..., : config.conv_dim].split([config.d_inner, shared, shared], dim=-1)
    return {
        "x": x.unflatten(-1, (heads, values)),
        "dt": torch.nn.functional.softplus(normal(batch, length, heads, device=device, seed=2) - 3),
        "a": -(1 + 15 * torch.rand(heads, generator=torch.Generator(device).manual_seed(3), device=device)),
        "b": b.unflatten(-1, (groups, states)),
        "c": c.unflatten(-1, (groups, states)),
        "d": normal(heads, device=device, dtype=dtype, seed=4),
    }


def sequences(batch: int, length: int, cuts: tuple[int, ...], device: torch.device) -> Tensor:
    """Packed rows, numbered from 5; a sequence starts at each cut."""
    row = torch.full((length,), 5, dtype=torch.int32, device=device)
    for cut in cuts:
        row[cut:] += 1
    return row.repeat(batch, 1)
