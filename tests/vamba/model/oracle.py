"""The hybrid's equations once more, written for reading: one sample, no packing, no cache, loops over heads and tokens.

It shares nothing with the product but parameter names, so that a mistake would have to be made twice to pass.
Vamba (arXiv 2503.11579) section 3, Mamba-2 (arXiv 2405.21060) section 3, Qwen2-VL (arXiv 2409.12191) section 2.1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vamba.model.config import ModelConfig

Weights = Mapping[str, Tensor]
Grid = tuple[int, int, int]


def logits(
    config: ModelConfig, weights: Weights, patches: Tensor | None, grids: Sequence[Grid], ids: Sequence[int]
) -> Tensor:
    """(T, V) of one sample: its media items in order, and one conversation."""
    text = weights["model.embed_tokens.weight"][torch.tensor(ids)]
    video = None if patches is None else tower(config, weights, patches, grids)
    for index in range(config.num_hidden_layers):
        text, video = layer(config, weights, f"model.layers.{index}.", text, video, grids)
    text = rms_norm(text, weights["model.norm.weight"], config.rms_norm_eps)
    return text @ weights["model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"].T


def layer(
    config: ModelConfig, w: Weights, at: str, text: Tensor, video: Tensor | None, grids: Sequence[Grid]
) -> tuple[Tensor, Tensor | None]:
    normed = rms_norm(text, w[at + "input_layernorm.weight"], config.rms_norm_eps)
    places = torch.arange(len(text)).expand(3, -1)
    own = attention(config, w, at + "self_attn.", normed, normed, places, places, causal=True)
    seen = torch.zeros_like(own)
    if video is not None:
        if config.cross_attn_use_layer_norm:
            video = rms_norm(video, w[at + "input_layernorm.weight"], config.rms_norm_eps)
        rotated = config.cross_attn_use_position_embeddings
        where = (places, token_places(config, grids)) if rotated else (None, None)
        seen = attention(config, w, at + "cross_attn.", normed, video, *where, causal=False)
        if config.mixer.enable:
            video = video + mixer(config, w, at + "vision_mixer.", video)
    alpha = None
    if config.use_alpha_balancing:
        given = w[at + "alpha"]
        alpha = given + (given.clamp(0, 1) - given).detach()  # the gradient goes straight through the bounds
    text = text + (own + seen if alpha is None else alpha * own + (1 - alpha) * seen)
    normed = rms_norm(text, w[at + "post_attention_layernorm.weight"], config.rms_norm_eps)
    gate, up = (normed @ w[at + f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
    return text + (F.silu(gate) * up) @ w[at + "mlp.down_proj.weight"].T, video


def attention(
    config: ModelConfig,
    w: Weights,
    at: str,
    queries: Tensor,
    keys: Tensor,
    query_places: Tensor | None,
    key_places: Tensor | None,
    *,
    causal: bool,
) -> Tensor:
    q = queries @ w[at + "q_proj.weight"].T + w[at + "q_proj.bias"]
    k = keys @ w[at + "k_proj.weight"].T + w[at + "k_proj.bias"]
    v = keys @ w[at + "v_proj.weight"].T + w[at + "v_proj.bias"]
    size, shared = config.head_dim, config.num_attention_heads // config.num_key_value_heads
    heads = []
    for head in range(config.num_attention_heads):
        mine, theirs = slice(head * size, (head + 1) * size), slice(head // shared * size, (head // shared + 1) * size)
        qh, kh = rope(config, q[:, mine], query_places), rope(config, k[:, theirs], key_places)
        scores = qh @ kh.T / math.sqrt(size)
        if causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        heads.append(scores.softmax(-1) @ v[:, theirs])
    return torch.cat(heads, dim=1) @ w[at + "o_proj.weight"].T


def rope(config: ModelConfig, x: Tensor, places_3T: Tensor | None) -> Tensor:
    """Frequency i turns values i and i + half; `mrope_section` says which of the three places a frequency follows."""
    if places_3T is None:
        return x
    half = x.shape[1] // 2
    axes = [axis for axis, count in enumerate(config.mrope_section) for _ in range(count)]
    out = x.clone()
    for i in range(half):
        angle = places_3T[axes[i]].to(x.dtype) * config.rope_theta ** (-2 * i / x.shape[1])
        out[:, i] = x[:, i] * angle.cos() - x[:, i + half] * angle.sin()
        out[:, i + half] = x[:, i + half] * angle.cos() + x[:, i] * angle.sin()
    return out


def token_places(config: ModelConfig, grids: Sequence[Grid]) -> Tensor:
    merge = config.vision.spatial_merge_size
    rows = [
        (t, y, x)
        for frames, height, width in grids
        for t in range(frames)
        for y in range(height // merge)
        for x in range(width // merge)
    ]
    return torch.tensor(rows).T


def mixer(config: ModelConfig, w: Weights, at: str, video: Tensor) -> Tensor:
    m = config.mixer
    normed = rms_norm(video, w[at + "norm.weight"], 1e-5)
    at += "mixer."
    projected = normed @ w[at + "in_proj.weight"].T
    z, xbc, dt = projected.split([m.d_inner, m.conv_dim, m.num_heads], dim=1)
    window = torch.cat([xbc.new_zeros(m.d_conv - 1, m.conv_dim), xbc])
    taps = w[at + "conv1d.weight"][:, 0]
    mixed = torch.stack([(window[t : t + m.d_conv].T * taps).sum(1) for t in range(len(xbc))])
    mixed = F.silu(mixed + w[at + "conv1d.bias"])
    shared = m.ngroups * m.d_state
    x, b, c = mixed.split([m.d_inner, shared, shared], dim=1)
    dt = F.softplus(dt + w[at + "dt_bias"]).clamp(*m.dt_limit)
    decay = -torch.exp(w[at + "A_log"])
    outputs = []
    for head in range(m.num_heads):
        group = head // (m.num_heads // m.ngroups)
        mine, theirs = (
            slice(head * m.headdim, (head + 1) * m.headdim),
            slice(group * m.d_state, (group + 1) * m.d_state),
        )
        state, rows = x.new_zeros(m.headdim, m.d_state), []
        for t in range(len(x)):
            step = dt[t, head]
            state = torch.exp(step * decay[head]) * state + step * torch.outer(x[t, mine], b[t, theirs])
            rows.append(state @ c[t, theirs] + w[at + "D"][head] * x[t, mine])
        outputs.append(torch.stack(rows))
    gated = torch.cat(outputs, dim=1) * F.silu(z)
    size = m.d_inner // m.ngroups
    parts = [rms_norm(part, torch.ones(size, dtype=gated.dtype), 1e-5) for part in gated.split(size, dim=1)]
    return (torch.cat(parts, dim=1) * w[at + "norm.weight"]) @ w[at + "out_proj.weight"].T


def tower(config: ModelConfig, w: Weights, patches: Tensor, grids: Sequence[Grid]) -> Tensor:
    """Video tokens of all items; attention stays inside one frame pair."""
    vision = config.vision
    x = patches @ w["visual.patch_embed.proj.weight"].flatten(1).T
    pairs = [(h, wide) for t, h, wide in grids for _ in range(t)]
    outputs = []
    for (height, width), part in zip(pairs, x.split([h * wide for h, wide in pairs]), strict=True):
        for block in range(vision.depth):
            part = tower_block(config, w, f"visual.blocks.{block}.", part, height, width)
        outputs.append(part)
    merged = layer_norm(torch.cat(outputs), w, "visual.merger.ln_q").reshape(-1, 4 * vision.embed_dim)
    hidden = F.gelu(merged @ w["visual.merger.mlp.0.weight"].T + w["visual.merger.mlp.0.bias"])
    return hidden @ w["visual.merger.mlp.2.weight"].T + w["visual.merger.mlp.2.bias"]


def tower_block(config: ModelConfig, w: Weights, at: str, x: Tensor, height: int, width: int) -> Tensor:
    size = config.vision.head_dim
    qkv = layer_norm(x, w, at + "norm1") @ w[at + "attn.qkv.weight"].T + w[at + "attn.qkv.bias"]
    q, k, v = qkv.chunk(3, dim=1)
    # Patches come in squares of 2 x 2, row by row of squares.
    where = [
        (2 * i + a, 2 * j + b) for i in range(height // 2) for j in range(width // 2) for a in (0, 1) for b in (0, 1)
    ]
    heads = []
    for head in range(config.vision.num_heads):
        mine = slice(head * size, (head + 1) * size)
        scores = turn(q[:, mine], where) @ turn(k[:, mine], where).T / math.sqrt(size)
        heads.append(scores.softmax(-1) @ v[:, mine])
    x = x + torch.cat(heads, dim=1) @ w[at + "attn.proj.weight"].T + w[at + "attn.proj.bias"]
    hidden = layer_norm(x, w, at + "norm2") @ w[at + "mlp.fc1.weight"].T + w[at + "mlp.fc1.bias"]
    return x + (hidden * torch.sigmoid(1.702 * hidden)) @ w[at + "mlp.fc2.weight"].T + w[at + "mlp.fc2.bias"]


def turn(x: Tensor, where: Sequence[tuple[int, int]]) -> Tensor:
    """The tower's rope: the first half of the frequencies follows the row, the second the column."""
    half, out = x.shape[1] // 2, x.clone()
    for i in range(half):
        axis, step = divmod(i, half // 2)
        angle = torch.tensor([place[axis] for place in where], dtype=x.dtype) * 10_000.0 ** (-2 * step / half)
        out[:, i] = x[:, i] * angle.cos() - x[:, i + half] * angle.sin()
        out[:, i + half] = x[:, i + half] * angle.cos() + x[:, i] * angle.sin()
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt(x.square().mean(-1, keepdim=True) + eps) * weight


def layer_norm(x: Tensor, w: Weights, at: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / torch.sqrt(centred.square().mean(-1, keepdim=True) + 1e-6) * w[at + ".weight"] + w[at + ".bias"]
