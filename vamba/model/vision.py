"""Qwen2-VL's vision tower: pixel patches in, video tokens out.

Attention stays inside one frame pair, so pairs of equal size are simply a batch: no mask and no variable lengths. A
batch with several frame sizes is sorted into buckets first (`TowerLayout`), each bucket one attention call per block.

Qwen2-VL (arXiv 2409.12191), section 2.1. Module names are those of its checkpoints.
Shapes: P patches, C values per patch, E tower width, H heads, D values per head, M video tokens (P / 4).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vamba.data.batch import TowerLayout
from vamba.data.normalise import normalise_patches
from vamba.model.config import VisionConfig
from vamba.model.norm import LayerNorm
from vamba.model.positions import Rotary, patch_rotary, rotate

_EPS = 1e-6
_GELU_SLOPE = 1.702


class PatchEmbed(nn.Module):
    """A convolution whose stride is its kernel: one matrix product over flattened patches."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        kernel = (config.temporal_patch_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(config.in_channels, config.embed_dim, kernel, stride=kernel, bias=False)

    def forward(self, patches_PC: Tensor) -> Tensor:
        weight = self.proj.weight.flatten(1)
        if patches_PC.dtype == torch.uint8:
            patches_PC = normalise_patches(patches_PC)
        return F.linear(patches_PC.to(weight.dtype), weight)


class VisionAttention(nn.Module):
    """Full attention inside each frame pair."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.qkv = nn.Linear(config.embed_dim, 3 * config.embed_dim)
        self.proj = nn.Linear(config.embed_dim, config.embed_dim)

    def forward(self, x_PE: Tensor, rotary: Rotary, layout: TowerLayout) -> Tensor:
        q_PHD, k_PHD, v_PHD = self.qkv(x_PE).unflatten(-1, (3, self.num_heads, -1)).unbind(1)
        q_PHD, k_PHD = rotate(q_PHD, rotary), rotate(k_PHD, rotary)
        outputs, start = [], 0
        for pairs, length in layout.buckets:
            rows = slice(start, start + pairs * length)
            q, k, v = (t[rows].unflatten(0, (pairs, length)).transpose(1, 2) for t in (q_PHD, k_PHD, v_PHD))
            outputs.append(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(0, 1))
            start += pairs * length
        return self.proj((outputs[0] if len(outputs) == 1 else torch.cat(outputs)).flatten(1))


class VisionMLP(nn.Module):
    """Two layers with the sigmoid approximation of GELU, x * sigmoid(1.702 x), written as SiLU at another scale."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = int(config.embed_dim * config.mlp_ratio)
        self.fc1 = nn.Linear(config.embed_dim, width)
        self.fc2 = nn.Linear(width, config.embed_dim)

    def forward(self, x_PE: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x_PE) * _GELU_SLOPE) / _GELU_SLOPE)


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.norm1 = LayerNorm(config.embed_dim, eps=_EPS)
        self.norm2 = LayerNorm(config.embed_dim, eps=_EPS)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x_PE: Tensor, rotary: Rotary, layout: TowerLayout) -> Tensor:
        x_PE = x_PE + self.attn(self.norm1(x_PE), rotary, layout)
        return x_PE + self.mlp(self.norm2(x_PE))


class PatchMerger(nn.Module):
    """Four neighbouring patches become one video token of the language model's width."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.width = config.embed_dim * config.spatial_merge_size**2
        self.ln_q = LayerNorm(config.embed_dim, eps=_EPS)
        self.mlp = nn.Sequential(
            nn.Linear(self.width, self.width), nn.GELU(), nn.Linear(self.width, config.hidden_size)
        )

    def forward(self, x_PE: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x_PE).view(-1, self.width))


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = PatchMerger(config)

    def forward(self, patches_PC: Tensor, layout: TowerLayout) -> Tensor:
        """Patches (P, C), uint8 pixels or normalised floats -> video tokens (M, d), in the order they came in."""
        v_MD = self.merger(self.features(patches_PC, layout))
        return v_MD if layout.restore_M is None else v_MD.index_select(0, layout.restore_M)

    def features(self, patches_PC: Tensor, layout: TowerLayout, *, recompute: bool = False) -> Tensor:
        """What the blocks make of patches, (P, E) in tower order: the merger's input, four rows to a video token.

        recompute: keep only each block's input for the backward pass.
        """
        if layout.order_P is not None:
            patches_PC = patches_PC.index_select(0, layout.order_P)
        x_PE = self.patch_embed(patches_PC)
        rotary = patch_rotary(layout.positions_P2, self.config.head_dim, x_PE.dtype)
        for block in self.blocks:
            if recompute:
                x_PE = checkpoint(block, x_PE, rotary, layout, use_reentrant=False)
            else:
                x_PE = block(x_PE, rotary, layout)
        return x_PE
