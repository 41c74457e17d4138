"""How much memory the activations of one pack take where its video may be streamed, by the same counts as elsewhere.

    stored     keys and values of every layer, states at chunk bounds, the tower's tokens: grows with the video
    kept       the text's layer inputs, and what it read of the video
    working    the graphs of one chunk through all layers, or the text's largest block: does not grow

A run that streams also has packs that it does not: the larger of the two is what it needs. Where what is stored lies
elsewhere (on a GPU's host, on disk), it is no part of that comparison.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal, NamedTuple

from vamba.model.config import ModelConfig
from vamba.parallel.activation_memory import ActivationMemory, PackShape, activation_memory, graph_bytes
from vamba.parallel.config import ParallelConfig


class PackMemory(NamedTuple):
    """held: of the pack that needs most of a worker's memory. of: that pack. stored: bytes of the largest streamed video,
    wherever they lie; part of `held` only if that is of this video."""  # noqa: E501

    held: ActivationMemory
    of: PackShape
    stored: int


def pack_memory(
    model: ModelConfig,
    pack: PackShape,
    config: ParallelConfig,
    *,
    compute_bytes: int,
    trains_blocks: bool,
    trains_merger: bool,
    stored_is_held: bool,
) -> PackMemory:
    """The estimate for a run whose largest pack is `pack`. stored_is_held: whether what is stored of a streamed video
    lies in the memory that is counted."""
    trained = {"trains_blocks": trains_blocks, "trains_merger": trains_merger}
    policy: Literal["none", "layer"] = "none" if config.activation == "none" else "layer"
    if not config.streams:
        held = activation_memory(model, pack, policy=policy, compute_bytes=compute_bytes, **trained)
        return PackMemory(held, pack, 0)
    above = config.streamed_above_tokens if config.context == 1 else 0  # ranks that share a video stream every one
    largest_whole = replace(pack, num_video_tokens=min(pack.num_video_tokens, above))
    whole = activation_memory(model, largest_whole, policy=policy, compute_bytes=compute_bytes, **trained)
    if pack.num_video_tokens <= above:
        return PackMemory(whole, pack, 0)
    share = replace(pack, num_video_tokens=math.ceil(pack.num_video_tokens / config.context))
    streamed = _streamed(model, share, config.stream_chunk_tokens, compute_bytes, **trained)
    in_memory = streamed.total if stored_is_held else streamed.total - streamed.stored
    if whole.total > in_memory:
        return PackMemory(whole, largest_whole, streamed.stored)
    return PackMemory(streamed, pack, streamed.stored)


def _streamed(
    model: ModelConfig, pack: PackShape, chunk_tokens: int, b: int, *, trains_blocks: bool, trains_merger: bool
) -> ActivationMemory:
    trained = {"trains_blocks": trains_blocks, "trains_merger": trains_merger}
    text = activation_memory(model, replace(pack, num_video_tokens=0), policy="layer", compute_bytes=b)
    chunk = min(chunk_tokens, pack.num_video_tokens)
    of_chunk = PackShape(num_text_tokens=0, num_video_tokens=chunk, num_labelled=0)
    tower = activation_memory(model, of_chunk, policy="layer", compute_bytes=b, **trained)
    depth, heads = model.num_hidden_layers, model.num_attention_heads
    read = pack.num_text_tokens * depth * 4 * (model.hidden_size + heads)  # what was found, and its lse, float32
    return ActivationMemory(
        stored=_stored(model, pack, chunk_tokens, b, **trained),
        kept_layers=text.kept_layers + read,
        kept_vision=0,
        kept_logits=text.kept_logits,
        working=max(text.working, graph_bytes(model, chunk, b) + tower.kept_vision),
    )


def _stored(
    model: ModelConfig, pack: PackShape, chunk_tokens: int, b: int, *, trains_blocks: bool, trains_merger: bool
) -> int:
    depth, mixer = model.num_hidden_layers, model.mixer
    keys_values = depth * 2 * model.num_key_value_heads * model.head_dim * b
    tokens = model.hidden_size * b
    if trains_blocks:
        tokens = 0
    elif trains_merger:
        tokens = model.vision.embed_dim * model.vision.spatial_merge_size**2 * b
    state = 4 * mixer.d_inner * mixer.d_state + b * mixer.conv_dim * mixer.d_conv
    states = (depth - 1) * state * (math.ceil(pack.num_video_tokens / chunk_tokens) - 1) if mixer.enable else 0
    return pack.num_video_tokens * (keys_values + tokens) + states
