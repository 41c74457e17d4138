"""The video stream's Mamba-2 block: projection, causal convolution, scan, gated norm, projection.

    [z | xBC | dt] = in_proj(u);  xBC = SiLU(conv(xBC));  dt = softplus(dt + dt_bias), bounded;  A = -exp(A_log)
    out = out_proj(RMSNorm(scan(x, dt, A, B, C, D) * SiLU(z)))          the norm comes after the gate
Mamba-2 (arXiv 2405.21060), section 7; Vamba section 3.2. Both carried states are returned, so that a video can be run
in pieces; `seq_idx` restarts them where packed sequences meet.

Shapes: B batch, L length, D width, I inner width, H heads, P values per head, G groups, N state size, C convolution
channels, W its width, Z the width of the first projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vamba.model.config import MixerConfig
from vamba.model.norm import RMSNorm
from vamba.ops.backends import Operations

_EPS = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class MixerState:
    """What one mixer carries from one piece of a video to the next."""

    conv_BCW: Tensor
    """The last W raw inputs of the convolution."""
    ssm_BHPN: Tensor
    """The scan's state, float32 or wider."""


class GatedRMSNorm(nn.Module):
    """RMSNorm(y * SiLU(z)) within each group of channels."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, y_BLI: Tensor, z_BLI: Tensor) -> Tensor:
        gated = (y_BLI * F.silu(z_BLI)).unflatten(-1, (self.groups, -1))
        wide = gated.to(torch.promote_types(gated.dtype, torch.float32))
        return F.rms_norm(wide, wide.shape[-1:], eps=_EPS).flatten(-2).to(y_BLI.dtype) * self.weight.to(y_BLI.dtype)


class Mamba2Mixer(nn.Module):
    def __init__(self, config: MixerConfig, ops: Operations) -> None:
        super().__init__()
        self.config, self.ops = config, ops
        inner, heads = config.d_inner, config.num_heads
        self.in_proj = nn.Linear(config.hidden_dim, inner + config.conv_dim + heads, bias=config.bias)
        self.conv1d = nn.Conv1d(
            config.conv_dim, config.conv_dim, config.d_conv, groups=config.conv_dim, bias=config.conv_bias
        )
        self.dt_bias = nn.Parameter(torch.empty(heads))
        self.A_log = nn.Parameter(torch.empty(heads))
        self.D = nn.Parameter(torch.empty(heads))
        self.norm = GatedRMSNorm(inner, config.ngroups)
        self.out_proj = nn.Linear(inner, config.hidden_dim, bias=config.bias)

    def forward(
        self,
        u_BLD: Tensor,
        seq_idx_BL: Tensor | None = None,
        state: MixerState | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Tensor, MixerState]:
        """(output_BLD, the state after the last token).

        recompute: for the backward pass, keep what lies between the two projections as their products alone, and run
        convolution, scan and norm again: a third of the memory, for the cheap part of the work.
        """
        projected_BLZ = self.in_proj(u_BLD)
        if recompute and torch.is_grad_enabled():
            y_BLI, state = checkpoint(
                self._between, projected_BLZ, seq_idx_BL, state, use_reentrant=False, preserve_rng_state=False
            )
        else:
            y_BLI, state = self._between(projected_BLZ, seq_idx_BL, state)
        return self.out_proj(y_BLI), state

    def _between(
        self, projected_BLZ: Tensor, seq_idx_BL: Tensor | None, state: MixerState | None
    ) -> tuple[Tensor, MixerState]:
        """Everything but the projections: (what the second one takes, the state after the last token)."""
        config = self.config
        z_BLI, xbc_BLC, dt_BLH = projected_BLZ.split([config.d_inner, config.conv_dim, config.num_heads], dim=-1)
        xbc_BLC, conv_BCW = self.ops.conv(
            xbc_BLC,
            self.conv1d.weight.squeeze(1),
            self.conv1d.bias,
            seq_idx_BL=seq_idx_BL,
            initial_state_BCW=None if state is None else state.conv_BCW,
        )
        shared = config.ngroups * config.d_state
        x, b, c = xbc_BLC.split([config.d_inner, shared, shared], dim=-1)
        dtype = torch.promote_types(dt_BLH.dtype, torch.float32)
        dt_BLH = F.softplus(dt_BLH.to(dtype) + self.dt_bias.to(dtype))
        if config.dt_limit != (0.0, float("inf")):
            dt_BLH = dt_BLH.clamp(*config.dt_limit)
        y_BLHP, ssm_BHPN = self.ops.scan(
            x.unflatten(-1, (config.num_heads, config.headdim)),
            dt_BLH,
            -torch.exp(self.A_log.to(dtype)),
            b.unflatten(-1, (config.ngroups, config.d_state)),
            c.unflatten(-1, (config.ngroups, config.d_state)),
            self.D,
            chunk_size=config.chunk_size,
            seq_idx_BL=seq_idx_BL,
            initial_state_BHPN=None if state is None else state.ssm_BHPN,
        )
        # A convolution may return its state as a view of all it read: a copy lets that go.
        return self.norm(y_BLHP.flatten(-2), z_BLI), MixerState(conv_BCW=conv_BCW.contiguous(), ssm_BHPN=ssm_BHPN)


class VisionMixer(nn.Module):
    """The residual block around the mixer: v + Mixer(RMSNorm(v)). Video tokens have no MLP."""

    def __init__(self, config: MixerConfig, ops: Operations) -> None:
        super().__init__()
        self.norm = RMSNorm(config.hidden_dim, _EPS)
        self.mixer = Mamba2Mixer(config, ops)

    def forward(
        self,
        v_BLD: Tensor,
        seq_idx_BL: Tensor | None = None,
        state: MixerState | None = None,
        *,
        recompute: bool = False,
    ) -> tuple[Tensor, MixerState]:
        mixed_BLD, state = self.mixer(self.norm(v_BLD), seq_idx_BL, state, recompute=recompute)
        return v_BLD + mixed_BLD, state
