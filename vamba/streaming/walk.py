"""One chunk of the video through one layer, and the seam through which mixer states travel from chunk to chunk.

    for each chunk, each layer:   state ── carry.take ──> read_and_mix ──> keys, values, stream, state ── carry.give ──>

Whoever holds chunk c at layer l needs what chunk c-1 left at layer l, and nothing else: that is all that encoding, the
backward pass and context parallel differ in.

Shapes: M video tokens of the chunk, D width, K key/value heads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from vamba.data.batch import VideoLayout
from vamba.model.config import ModelConfig
from vamba.model.layer import HybridLayer
from vamba.model.mixer import MixerState
from vamba.model.positions import Rotary, video_rotary
from vamba.streaming.chunks import Chunk


class Carry(Protocol):
    """How mixer states get from one chunk to the next: kept in this process, or sent between ranks.

    A state is given once and taken once. Nothing is taken for a chunk that begins a sample, and nothing is given by one
    that ends a sample, so both sides know from the chunks alone what will come. The backward pass carries the gradients
    of the states through the same seam: given for a chunk, taken for the chunk before it.
    """

    def take(self, chunk: int, layer: int) -> MixerState:
        """What chunk `chunk` needs at `layer`."""

    def give(self, chunk: int, layer: int, state: MixerState) -> None:
        """What chunk `chunk` leaves for its neighbour at `layer`."""

    def close(self) -> None:
        """The walk is over: return when all that was given has left this process."""


class LocalCarry:
    """All chunks in one process, one after the other."""

    def __init__(self) -> None:
        self._states: dict[int, MixerState] = {}

    def take(self, chunk: int, layer: int) -> MixerState:
        return self._states.pop(layer)

    def give(self, chunk: int, layer: int, state: MixerState) -> None:
        self._states[layer] = state

    def close(self) -> None:
        assert not self._states, "a state was given and never taken"


class LayerPass(NamedTuple):
    """What a chunk leaves of one layer."""

    k_MKD: Tensor
    v_MKD: Tensor
    stream_MD: Tensor
    """The video stream for the layer above; the one that came in, where the mixer does not run."""
    state: MixerState | None
    """For the next chunk; None where the mixer does not run."""


def read_and_mix(
    layer: HybridLayer,
    stream_MD: Tensor,
    rotary: Rotary | None,
    seq_idx_1M: Tensor | None,
    state: MixerState | None,
    *,
    recompute: bool = False,
) -> LayerPass:
    """One chunk through the video side of one layer; `state` is what the chunk before left, None at a beginning.

    recompute: let a graph keep less of the mixer.
    """
    stream_MD, (k_MKD, v_MKD) = layer.read_video(stream_MD, rotary)
    stream_MD, state = layer.mix_video(stream_MD, seq_idx_1M, state, recompute=recompute)
    return LayerPass(k_MKD, v_MKD, stream_MD, state)


def mixes(layer: HybridLayer) -> bool:
    """Whether a layer's mixer runs, and so has a state: the last layer's would be read by nothing."""
    return not layer.is_last and layer.vision_mixer is not None


def layers_with_state(model: Any) -> list[int]:
    """The layers whose mixers run, in order."""
    return [index for index, layer in enumerate(model.model.hybrid_layers) if mixes(layer)]


def trained_states(model: Any) -> list[int]:
    """Those whose states get gradients: what is trained of the model lies in their mixer or below it."""
    found = []
    below = any(p.requires_grad for p in model.visual.parameters())
    for index, layer in enumerate(model.model.hybrid_layers):
        below = below or (layer.normalises_video and layer.input_layernorm.weight.requires_grad)
        if mixes(layer):
            below = below or any(p.requires_grad for p in layer.vision_mixer.parameters())
            if below:
                found.append(index)
    return found


def trained_parameters(model: Any) -> Iterator[nn.Parameter]:
    """What is trained of the video side."""
    modules: list[nn.Module] = [model.visual]
    for layer in model.model.hybrid_layers:
        modules += [layer.cross_attn.k_proj, layer.cross_attn.v_proj]
        modules += [layer.input_layernorm] * layer.normalises_video + [layer.vision_mixer] * mixes(layer)
    return (parameter for module in modules for parameter in module.parameters() if parameter.requires_grad)


def seq_idx_of(chunk: Chunk, layout: VideoLayout) -> Tensor | None:
    """(1, M) the sample of each token of a chunk; None when they are of one."""
    return layout.seq_idx_M[None, chunk.start : chunk.stop] if chunk.num_samples > 1 else None


def rotary_of(chunk: Chunk, layout: VideoLayout, config: ModelConfig, like: Tensor) -> Rotary | None:
    """The positions of a chunk's tokens in `like`'s precision; None where cross-attention is not rotated."""
    if not config.cross_attn_use_position_embeddings:
        return None
    positions_3M = layout.position_ids_3M[:, chunk.start : chunk.stop]
    return video_rotary(positions_3M, config.mrope_section, config.head_dim, config.rope_theta, like.dtype)
