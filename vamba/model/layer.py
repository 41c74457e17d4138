"""One hybrid layer: two streams, text and video, with one way between them.

    n  = RMSNorm_in(t)
    t  = t + a * SelfAttention(n) + (1 - a) * CrossAttention(n, v)      a: one learned scalar, kept in [0, 1]
    v  = v + Mixer(RMSNorm_v(v))                                        skipped in the last layer: nothing reads it
    t  = t + MLP(RMSNorm_post(t))
Text reads the video as it was before this layer's mixer; the video never reads the text. So the video side can run
alone, once, in pieces (`read_video`, `mix_video`), and the text side against what it left behind (`update_text`).

Vamba (arXiv 2503.11579), section 3.
Shapes: T text tokens, M video tokens, D width (of a head: values per head), H query heads, K key/value heads.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vamba.model.config import ModelConfig
from vamba.model.mixer import MixerState, VisionMixer
from vamba.model.norm import RMSNorm
from vamba.model.positions import Rotary, rotate
from vamba.ops.attention.layout import CrossLayout, Segments
from vamba.ops.backends import Operations

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(q_THD, k_TKD, v_TKD) -> out_THD: how text finds text, decided by the caller (packed batch, cache)."""
Read = Callable[[Tensor], Tensor]
"""q_THD -> out_THD: how text finds video, decided by the caller (this batch's keys, or an encoded video's)."""
KeysValues = tuple[Tensor, Tensor]
"""(k_MKD, v_MKD)"""


@dataclass(frozen=True, slots=True, kw_only=True)
class PackedContext:
    """What all layers share in one pass over a packed batch."""

    text: Segments
    cross: CrossLayout | None
    text_rotary: Rotary
    video_rotary: Rotary | None
    """Set only when the configuration rotates cross-attention."""
    seq_idx_1M: Tensor | None
    """Sample of each video token; None when there is one sample."""


class _Projections(nn.Module):
    """q, k, v with biases and o without, as in Qwen2."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        self.head_dim = config.head_dim
        self.q_proj = nn.Linear(width, width)
        self.k_proj = nn.Linear(width, kv_width)
        self.v_proj = nn.Linear(width, kv_width)
        self.o_proj = nn.Linear(width, width, bias=False)

    def _heads(self, x_TD: Tensor) -> Tensor:
        return x_TD.unflatten(-1, (-1, self.head_dim))


class SelfAttention(_Projections):
    """Causal attention among text tokens."""

    def forward(self, n_TD: Tensor, rotary: Rotary, attend: Attend) -> Tensor:
        q_THD = rotate(self._heads(self.q_proj(n_TD)), rotary)
        k_TKD = rotate(self._heads(self.k_proj(n_TD)), rotary)
        return self.o_proj(attend(q_THD, k_TKD, self._heads(self.v_proj(n_TD))).flatten(-2))


class CrossAttention(_Projections):
    """Text queries over video keys, without a causal order."""

    def keys_values(self, v_MD: Tensor, rotary: Rotary | None) -> KeysValues:
        """What the text will read of the video; computed once per video."""
        k_MKD = self._heads(self.k_proj(v_MD))
        return (k_MKD if rotary is None else rotate(k_MKD, rotary)), self._heads(self.v_proj(v_MD))

    def forward(self, n_TD: Tensor, rotary: Rotary | None, read: Read) -> Tensor:
        q_THD = self._heads(self.q_proj(n_TD))
        if rotary is not None:
            q_THD = rotate(q_THD, rotary)
        return self.o_proj(read(q_THD).flatten(-2))


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_TD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_TD)) * self.up_proj(x_TD))


class HybridLayer(nn.Module):
    def __init__(self, config: ModelConfig, ops: Operations, *, is_last: bool) -> None:
        super().__init__()
        self.ops, self.is_last = ops, is_last
        self.rotates_cross = config.cross_attn_use_position_embeddings
        self.normalises_video = config.cross_attn_use_layer_norm
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = SelfAttention(config)
        self.cross_attn = CrossAttention(config)
        self.alpha = nn.Parameter(torch.empty(1)) if config.use_alpha_balancing else None
        self.vision_mixer = VisionMixer(config.mixer, ops) if config.mixer.enable else None
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, t_TD: Tensor, v_MD: Tensor | None, context: PackedContext, read: Read | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Both streams through the layer, for a packed batch; `read` is of a video that has run without the text."""
        if v_MD is not None:
            v_MD, (k_MKD, values_MKD) = self.read_video(v_MD, context.video_rotary)
            read = partial(self.ops.cross_attention, k_MKD=k_MKD, v_MKD=values_MKD, layout=context.cross)
            v_MD, _ = self.mix_video(v_MD, context.seq_idx_1M, None)
        attend = partial(self.ops.self_attention, layout=context.text)
        return self.update_text(t_TD, context.text_rotary, attend, read), v_MD

    def read_video(self, v_MD: Tensor, rotary: Rotary | None) -> tuple[Tensor, KeysValues]:
        """The video stream as this layer sees it, and the keys and values the text reads."""
        if self.normalises_video:
            v_MD = self.input_layernorm(v_MD)
        return v_MD, self.cross_attn.keys_values(v_MD, rotary)

    def mix_video(
        self, v_MD: Tensor, seq_idx_1M: Tensor | None, state: MixerState | None, *, recompute: bool = False
    ) -> tuple[Tensor, MixerState | None]:
        """The video stream after this layer's mixer. The last layer's would be read by nothing, so it does not run.

        recompute: as the mixer has it.
        """
        if self.is_last or self.vision_mixer is None:
            return v_MD, None
        mixed_1MD, state = self.vision_mixer(v_MD[None], seq_idx_1M, state, recompute=recompute)
        return mixed_1MD[0], state

    def update_text(self, t_TD: Tensor, rotary: Rotary, attend: Attend, read: Read | None) -> Tensor:
        """The text stream after the layer. Without a video (`read` is None), cross-attention adds nothing."""
        n_TD = self.input_layernorm(t_TD)
        own_TD = self.self_attn(n_TD, rotary, attend)
        seen_TD = torch.zeros_like(own_TD)
        if read is not None:
            seen_TD = self.cross_attn(n_TD, rotary if self.rotates_cross else None, read)
        if self.alpha is None:
            t_TD = t_TD + own_TD + seen_TD
        else:
            t_TD = t_TD + torch.lerp(seen_TD, own_TD, _bounded(self.alpha).to(own_TD.dtype))
        return t_TD + self.mlp(self.post_attention_layernorm(t_TD))


def _bounded(alpha: Tensor) -> Tensor:
    """alpha in [0, 1], with the gradient passed straight through."""
    return alpha + (alpha.clamp(0, 1) - alpha).detach()
