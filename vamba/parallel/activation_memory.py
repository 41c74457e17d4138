"""How much memory the activations of one pack take, estimated from the model's widths: what the equations keep.

For every kind of row (text token, video token, patch) the values are counted that autograd keeps of one block, in the
order of the forward pass. Kernels count as they are fused on a GPU: attention keeps its output and no scores, the scan
its output and a state per chunk. A test compares the counts with what autograd really saves.

Letters: d width, f width of the MLP, k width of keys, W and C the mixer's projection and convolution, I its inner
width, H its heads, N its state, E the tower's width, V the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vamba.model.config import ModelConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PackShape:
    """Rows of one forward pass. num_labelled: text tokens that are scored."""

    num_text_tokens: int
    num_video_tokens: int
    num_labelled: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ActivationMemory:
    """Bytes. kept_*: from the forward to the backward pass. working: the block that is being computed, the largest.
    stored: of a streamed video, what is read again chunk by chunk."""

    kept_layers: int
    kept_vision: int
    kept_logits: int
    working: int
    stored: int = 0

    @property
    def total(self) -> int:
        return self.kept_layers + self.kept_vision + self.kept_logits + self.working + self.stored


def activation_memory(
    config: ModelConfig,
    pack: PackShape,
    *,
    policy: Literal["none", "layer"],
    compute_bytes: int,
    trains_blocks: bool = False,
    trains_merger: bool = False,
) -> ActivationMemory:
    """The estimate for one pack. compute_bytes: of a value in compute. trains_*: whether that part of the tower is."""
    text, video = pack.num_text_tokens, pack.num_video_tokens
    patches = video * config.vision.spatial_merge_size**2
    mixer = video * _mixer_bytes(config, compute_bytes) if config.mixer.enable else 0
    layer = text * _text_bytes(config, compute_bytes) + video * _keys_bytes(config, compute_bytes)
    inputs = (text + video) * config.hidden_size * compute_bytes
    block = patches * _block_bytes(config, compute_bytes)
    merger = video * _merger_bytes(config, compute_bytes)
    kept_vision = merger if trains_blocks or trains_merger else 0
    if trains_blocks:
        kept_vision += config.vision.depth * block + patches * config.vision.patch_values * compute_bytes
    backward = text * 3 * config.intermediate_size * compute_bytes
    if config.mixer.enable:
        backward += video * (_projection(config) + 2 * config.mixer.d_inner) * compute_bytes
    recomputed = layer + mixer if policy == "layer" else 0
    depth = config.num_hidden_layers
    return ActivationMemory(
        kept_layers=depth * inputs if policy == "layer" else depth * layer + (depth - 1) * mixer,
        kept_vision=kept_vision,
        kept_logits=pack.num_labelled * (config.hidden_size + config.vocab_size) * (compute_bytes + 8),
        working=max(block // 2, recomputed + backward),
    )


def graph_bytes(config: ModelConfig, num_tokens: int, compute_bytes: int) -> int:
    """What autograd keeps of so many streamed video tokens on their way through all layers, where mixers run what lies
    between their projections again; and one layer's mixer while it does."""
    b, depth, d, inner = compute_bytes, config.num_hidden_layers, config.hidden_size, config.mixer.d_inner
    kept = depth * _keys_bytes(config, b)
    if not config.mixer.enable:
        return num_tokens * kept
    projections = _norm(d, b) + (d + _projection(config) + inner) * b  # normalised, weighted; z, xBC, dt; y
    backward = _mixer_bytes(config, b) + (_projection(config) + 2 * inner) * b
    return num_tokens * (kept + (depth - 1) * projections + backward)


def _wide(width: int, compute_bytes: int) -> int:
    """A float32 copy of a stream of lower precision, which norms keep."""
    return 4 * width if compute_bytes < 4 else 0


def _norm(width: int, compute_bytes: int) -> int:
    """Input, its float32 copy, and the normalised values before the weight."""
    return 2 * width * compute_bytes + _wide(width, compute_bytes)


def _text_bytes(config: ModelConfig, b: int) -> int:
    """Of a text token in one layer."""
    d, f, k = config.hidden_size, config.intermediate_size, config.num_key_value_heads * config.head_dim
    attention = d + 2 * d + 3 * k + d  # normalised; q, rotated; k, rotated, v; output
    cross = 2 * d  # q; output
    balance = 2 * d
    mlp = d + 4 * f  # normalised; gate, SiLU, up, their product
    return 2 * _norm(d, b) + (attention + cross + balance + mlp) * b


def _keys_bytes(config: ModelConfig, b: int) -> int:
    """Of a video token in one layer's cross-attention: the stream, keys, values."""
    return (config.hidden_size + 2 * config.num_key_value_heads * config.head_dim) * b


def _mixer_bytes(config: ModelConfig, b: int) -> int:
    """Of a video token in one mixer; the last layer's does not run."""
    d, mixer = config.hidden_size, config.mixer
    inner, state = mixer.d_inner, mixer.num_heads * mixer.headdim * mixer.d_state // mixer.chunk_size
    projected = d + _projection(config) + 2 * mixer.conv_dim  # normalised; z, xBC, dt; convolved, SiLU
    scanned = inner * b + 4 * (2 * mixer.num_heads + state)  # y; dt before and after softplus; states
    gated = 3 * inner * b + _norm(inner, b) + inner * b  # SiLU(z), product, …; normalised, weighted
    return d * b + _wide(d, b) + projected * b + scanned + gated


def _projection(config: ModelConfig) -> int:
    return config.mixer.d_inner + config.mixer.conv_dim + config.mixer.num_heads


def _block_bytes(config: ModelConfig, b: int) -> int:
    """Of a patch in one block of the tower."""
    e, f = config.vision.embed_dim, int(config.vision.embed_dim * config.vision.mlp_ratio)
    attention = e + 3 * e + 2 * e + 2 * e  # normalised; q, k, v; q, k rotated; output, as heads and as rows
    return 2 * (e * b + _wide(e, b)) + (attention + e + 2 * f) * b  # normalised; SiLU's input, its output


def _merger_bytes(config: ModelConfig, b: int) -> int:
    """Of a video token in the merger."""
    width = config.vision.embed_dim * config.vision.spatial_merge_size**2
    return _norm(width, b) + 3 * width * b
