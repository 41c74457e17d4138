"""How many floating-point operations of matrix products a training step needs, counted from the architecture.

    ModelConfig + names of trained parameters ──> a count for each token, patch and pair ── PackShape ──> operations

This is the model's work, the numerator of its utilisation (MFU; PaLM, arXiv 2204.02311, appendix B), and not what an
implementation happens to run. So recomputed activations, padding and the square products inside the scan's blocks are
left out, and of causal attention all pairs count, as is the custom. Norms, activations, the short convolution and the
optimizer are no matrix products.

A product Y = X W costs 2·rows·in·out forward, as much again where X needs a gradient, and again where W is trained.
Which tensors need one is followed through the model as autograd does, so frozen parts cost what they really do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from vamba.model.config import ModelConfig

if TYPE_CHECKING:
    from torch import Tensor

    from vamba.data.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class PackShape:
    """What the work of a pack depends on.

    text_pairs, cross_pairs, patch_pairs: (query, key) pairs of self-attention within conversations, of text over the
    video of its sample, and within frame pairs. scored_tokens: rows that get logits, a teacher's included.
    """

    text_tokens: int
    text_pairs: int
    scored_tokens: int
    video_tokens: int = 0
    cross_pairs: int = 0
    patches: int = 0
    patch_pairs: int = 0


def pack_shape(batch: Batch) -> PackShape:
    """The shape of a batch whose layouts are on the host."""
    lengths = _lengths(batch.text.cu_seqlens)
    scored = batch.num_loss_tokens + (0 if batch.teacher is None else len(batch.teacher.positions_R))
    text = {"text_tokens": batch.num_text_tokens, "text_pairs": int(lengths @ lengths), "scored_tokens": scored}
    if batch.video is None or batch.cross is None:
        return PackShape(**text)
    queries, keys = _lengths(batch.cross.queries.cu_seqlens), _lengths(batch.cross.keys.cu_seqlens)
    buckets = batch.video.tower.buckets
    return PackShape(
        **text,
        video_tokens=batch.num_video_tokens,
        cross_pairs=int(queries @ keys),
        patches=sum(pairs * length for pairs, length in buckets),
        patch_pairs=sum(pairs * length**2 for pairs, length in buckets),
    )


class StepWork:
    """Operations of forward and backward passes of one model with one trainable set."""

    def __init__(
        self, config: ModelConfig, trained: Collection[str], adapters: Mapping[str, int] | None = None
    ) -> None:
        """trained: full names of the model's own parameters that get gradients. adapters: rank of the LoRA adapter,
        which is trained, by the full name of its linear layer. Raises ValueError for a name that is none of the
        model's."""
        adapters = adapters or {}
        with_video = _Pass(config, frozenset(trained), adapters, has_video=True)
        unknown = {*trained, *(f"{layer}.weight" for layer in adapters)} - with_video.known
        if unknown:
            raise ValueError(
                f"{len(unknown)} trained parameters are not part of the architecture, for example {min(unknown)!r}."
            )
        self._with_video: Mapping[str, int] = with_video.flops
        self._text_only: Mapping[str, int] = _Pass(config, frozenset(trained), adapters, has_video=False).flops

    def flops(self, shape: PackShape) -> int:
        """Operations to train on one pack."""
        costs = self._with_video if shape.video_tokens else self._text_only
        return sum(costs[name] * getattr(shape, name) for name in costs)


class _Pass:
    """Walks through the model once. A tensor is stood for by whether it needs a gradient."""

    def __init__(
        self, config: ModelConfig, trained: frozenset[str], adapters: Mapping[str, int], *, has_video: bool
    ) -> None:
        self.config, self.trained, self.adapters, self.has_video = config, trained, adapters, has_video
        self.known: set[str] = set()
        self.flops: dict[str, int] = {field.name: 0 for field in fields(PackShape)}
        video = self._tower() if has_video else False
        text = self._trains("model.embed_tokens.weight")
        for index in range(config.num_hidden_layers):
            text, video = self._layer(index, text, video)
        head = "model.embed_tokens" if config.tie_word_embeddings else "lm_head"
        scored = self._trains("model.norm.weight") or text
        self._linear(head, "scored_tokens", config.hidden_size, config.vocab_size, scored)

    def _tower(self) -> bool:
        vision = self.config.vision
        width, inner = vision.embed_dim, int(vision.embed_dim * vision.mlp_ratio)
        x = self._linear("visual.patch_embed.proj", "patches", vision.patch_values, width, False)
        for index in range(vision.depth):
            block = f"visual.blocks.{index}."
            normed = self._norm(block + "norm1", x)
            qkv = self._linear(block + "attn.qkv", "patches", width, 3 * width, normed)
            seen = self._attention("patch_pairs", width, qkv, qkv, qkv)
            x = self._linear(block + "attn.proj", "patches", width, width, seen) or x
            hidden = self._linear(block + "mlp.fc1", "patches", width, inner, self._norm(block + "norm2", x))
            x = self._linear(block + "mlp.fc2", "patches", inner, width, hidden) or x
        merged = width * vision.spatial_merge_size**2
        hidden = self._norm("visual.merger.ln_q", x)
        hidden = self._linear("visual.merger.mlp.0", "video_tokens", merged, merged, hidden)
        return self._linear("visual.merger.mlp.2", "video_tokens", merged, vision.hidden_size, hidden)

    def _layer(self, index: int, text: bool, video: bool) -> tuple[bool, bool]:
        config, layer = self.config, f"model.layers.{index}."
        width, kv_width = config.hidden_size, config.num_key_value_heads * config.head_dim
        keys = values = seen = False
        if self.has_video:
            if config.cross_attn_use_layer_norm:
                video = self._norm(layer + "input_layernorm", video)
            keys = self._linear(layer + "cross_attn.k_proj", "video_tokens", width, kv_width, video)
            values = self._linear(layer + "cross_attn.v_proj", "video_tokens", width, kv_width, video)
            video = self._mixer(layer + "vision_mixer.", video, runs=index < config.num_hidden_layers - 1)
        normed = self._norm(layer + "input_layernorm", text)
        q, k, v = (
            self._linear(f"{layer}self_attn.{name}_proj", "text_tokens", width, size, normed)
            for name, size in (("q", width), ("k", kv_width), ("v", kv_width))
        )
        own = self._linear(
            layer + "self_attn.o_proj", "text_tokens", width, width, self._attention("text_pairs", width, q, k, v)
        )
        if self.has_video:
            queries = self._linear(layer + "cross_attn.q_proj", "text_tokens", width, width, normed)
            read = self._attention("cross_pairs", width, queries, keys, values)
            seen = self._linear(layer + "cross_attn.o_proj", "text_tokens", width, width, read)
        text = self._trains(layer + "alpha") or text or own or seen
        normed = self._norm(layer + "post_attention_layernorm", text)
        gate = self._linear(layer + "mlp.gate_proj", "text_tokens", width, config.intermediate_size, normed)
        up = self._linear(layer + "mlp.up_proj", "text_tokens", width, config.intermediate_size, normed)
        down = self._linear(layer + "mlp.down_proj", "text_tokens", config.intermediate_size, width, gate or up)
        return text or down, video

    def _mixer(self, mixer: str, video: bool, *, runs: bool) -> bool:
        """The last layer has a mixer that never runs."""
        config = self.config.mixer
        normed = self._norm(mixer + "norm", video)
        mixer += "mixer."
        inner = config.d_inner
        rows = "video_tokens" if runs and config.enable else None
        mixed = self._linear(
            mixer + "in_proj", rows, config.hidden_dim, inner + config.conv_dim + config.num_heads, normed
        )
        names = ("conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D")
        scanned = any([self._trains(mixer + name) for name in names]) or mixed
        if rows:
            # What a token adds to the state, and what it reads of it: an outer and an inner product for each head.
            self.flops[rows] += 2 * 2 * inner * config.d_state * (3 if scanned else 1)
        out = self._linear(mixer + "out_proj", rows, inner, config.hidden_dim, self._norm(mixer + "norm", scanned))
        return video or (out and rows is not None)

    def _linear(self, name: str, rows: str | None, inputs: int, outputs: int, x: bool) -> bool:
        """rows: what there are as many products of; None where the module never runs."""
        weight, rank = self._trains(name + ".weight"), self.adapters.get(name, 0)
        if rows:
            self.flops[rows] += 2 * inputs * outputs * (1 + x + weight)
            # Both factors of an adapter are trained, so what is between them needs a gradient.
            self.flops[rows] += 2 * rank * (inputs * (2 + x) + outputs * 3)
        return self._trains(name + ".bias") or x or weight or rank > 0

    def _attention(self, pairs: str, width: int, q: bool, k: bool, v: bool) -> bool:
        """Scores and their weighted sum; backward, a product for each of the four factors that needs a gradient."""
        self.flops[pairs] += 2 * width * (2 + (q or k) + q + k + v)
        return q or k or v

    def _norm(self, name: str, x: bool) -> bool:
        trains = [self._trains(f"{name}.{kind}") for kind in ("weight", "bias")]
        return any(trains) or x

    def _trains(self, name: str) -> bool:
        self.known.add(name)
        return name in self.trained


def _lengths(cu_seqlens: Tensor) -> np.ndarray:
    return np.diff(cu_seqlens.numpy().astype(np.int64))
