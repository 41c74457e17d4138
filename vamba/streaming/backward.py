"""The video side of one batch in chunks, forward without gradients and backward with them: exact, at any length.

    forward    chunks in order: tower ──> layers ──> keys and values, and the states each chunk began with ──> store
    text       ordinary autograd over the layers' text side, reading the store; its backward leaves (dk, dv) there
    backward   chunks in reverse: run the chunk again from its states, a graph per layer, then from the last layer down:
                   (dk, dv, d stream from the layer above, d state from the chunk after) ──> parameter gradients,
                   d stream for the layer below, d state for the chunk before

Only one chunk has a graph at a time. A graph per layer lets states travel layer by layer (`Carry`), so that ranks which
hold other chunks need not wait for the whole of one. Random numbers (dropout of adapters) follow from the chunk, so
that the second run of a chunk repeats the first.

The idea for pure state-space models: Video-Ma2mba (arXiv 2411.19460).
Shapes: M video tokens of a chunk, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vamba.data.batch import VideoLayout
from vamba.model.mixer import MixerState
from vamba.streaming.chunks import Chunk
from vamba.streaming.store import TOKENS, TensorStore, keys_values, states
from vamba.streaming.tower import TowerPass
from vamba.streaming.walk import (
    Carry,
    LayerPass,
    mixes,
    read_and_mix,
    rotary_of,
    seq_idx_of,
    trained_parameters,
    trained_states,
)


class _Segment(NamedTuple):
    """One layer of one chunk, with its graph."""

    stream_MD: Tensor
    state: MixerState | None
    left: LayerPass


class StreamedVideo:
    """The chunks of one batch that this process holds, in order; all of them, but in context parallelism."""

    def __init__(
        self, model: Any, layout: VideoLayout, tower: TowerPass, store: TensorStore, chunks: Sequence[Chunk]
    ) -> None:
        """layout: of the packed video, on the model's device."""
        self._model, self._config, self._layers = model, model.architecture, model.model.hybrid_layers
        self._layout, self._tower, self._store, self.chunks = layout, tower, store, tuple(chunks)
        self._trained_states = frozenset(trained_states(model))
        self._draws = any(isinstance(m, nn.Dropout) and m.p > 0 and m.training for m in model.modules())
        self._seed = torch.initial_seed()

    @torch.no_grad()
    def forward(self, carry: Carry, *, for_backward: bool = True) -> None:
        """Fill the store with what the text reads and, unless there will be none, with what `backward` needs."""
        for chunk in self.chunks:
            with self._random_numbers(chunk):
                self._forward_chunk(chunk, carry, for_backward)

    def backward(self, carry: Carry, after_chunk: Callable[[], None] = lambda: None) -> None:
        """Add the gradients of the video side, once those of keys and values are in the store.

        carry: of gradients, from each chunk to the one before it. after_chunk: called when a chunk's gradients have
        been added. Without a chunk of a batch, what others train of the video side gets zeros: ranks add up the
        gradients of one set of parameters.
        """
        if not self.chunks:
            self._add_zeros()
        order = [(place, chunk) for place, chunk in enumerate(self.chunks)][::-1]
        layers = range(len(self._layers))
        kept = self._store.read((TOKENS, place) for place, _ in order)
        began = self._store.read((states(layer), place) for place, _ in order for layer in layers)
        gradients = self._store.read((keys_values(layer), place) for place, _ in order for layer in reversed(layers))
        for _, chunk in order:
            with self._random_numbers(chunk), torch.enable_grad():
                tokens_MD = self._tower.again(chunk, next(kept))
                segments = self._again(chunk, tokens_MD, began)
            d_tokens_MD = self._backward_chunk(chunk, segments, gradients, carry)
            if tokens_MD.requires_grad:
                torch.autograd.backward(tokens_MD, d_tokens_MD)
            del tokens_MD
            after_chunk()

    def _forward_chunk(self, chunk: Chunk, carry: Carry, for_backward: bool) -> None:
        span = (chunk.start, chunk.stop)
        stream_MD = self._tower.forward(chunk, keep=for_backward)
        rotary, seq_idx = rotary_of(chunk, self._layout, self._config, stream_MD), seq_idx_of(chunk, self._layout)
        for index, layer in enumerate(self._layers):
            state = carry.take(chunk.index, index) if mixes(layer) and not chunk.begins_sample else None
            if for_backward:
                self._store.append(states(index), span, () if state is None else (state.conv_BCW, state.ssm_BHPN))
            k_MKD, v_MKD, stream_MD, state = read_and_mix(layer, stream_MD, rotary, seq_idx, state)
            self._store.append(keys_values(index), span, (k_MKD, v_MKD))
            if state is not None and not chunk.ends_sample:
                carry.give(chunk.index, index, state)

    def _again(self, chunk: Chunk, tokens_MD: Tensor, began: Iterator[tuple[Tensor, ...]]) -> list[_Segment]:
        """The chunk through the layers, a graph each. What no gradient will come through does not ask for one."""
        rotary, seq_idx = rotary_of(chunk, self._layout, self._config, tokens_MD), seq_idx_of(chunk, self._layout)
        segments: list[_Segment] = []
        stream_MD = tokens_MD
        for index, layer in enumerate(self._layers):
            stream_MD = stream_MD.detach().requires_grad_(stream_MD.requires_grad)
            state = None
            if kept := next(began):
                wants = index in self._trained_states
                conv_BCW, ssm_BHPN = (tensor.detach().clone().requires_grad_(wants) for tensor in kept)
                state = MixerState(conv_BCW=conv_BCW, ssm_BHPN=ssm_BHPN)
            left = read_and_mix(layer, stream_MD, rotary, seq_idx, state, recompute=True)
            segments.append(_Segment(stream_MD, state, left))
            stream_MD = left.stream_MD
        return segments

    def _backward_chunk(
        self, chunk: Chunk, segments: list[_Segment], gradients: Iterator[tuple[Tensor, ...]], carry: Carry
    ) -> Tensor | None:
        """The gradient of the tower's tokens; None where nothing below is trained."""
        d_stream_MD: Tensor | None = None
        for index in reversed(range(len(segments))):
            stream_MD, state, left = segments.pop()
            wants_state = index in self._trained_states
            known = list(zip((left.k_MKD, left.v_MKD, left.stream_MD), (*next(gradients), d_stream_MD), strict=True))
            if wants_state and not chunk.ends_sample:
                assert left.state is not None
                d_state = carry.take(chunk.index, index)
                known += [(left.state.conv_BCW, d_state.conv_BCW), (left.state.ssm_BHPN, d_state.ssm_BHPN)]
            known = [(tensor, grad) for tensor, grad in known if grad is not None and tensor.requires_grad]
            if known:
                torch.autograd.backward([tensor for tensor, _ in known], [grad for _, grad in known])
            if wants_state and state is not None:
                d_conv, d_ssm = (_grad_of(tensor) for tensor in (state.conv_BCW, state.ssm_BHPN))
                carry.give(chunk.index, index, MixerState(conv_BCW=d_conv, ssm_BHPN=d_ssm))
            d_stream_MD = stream_MD.grad
        return d_stream_MD

    def _add_zeros(self) -> None:
        for parameter in trained_parameters(self._model):
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    @contextmanager
    def _random_numbers(self, chunk: Chunk) -> Iterator[None]:
        """The chunk's own, and the others as if it had drawn none."""
        if not self._draws:
            yield
            return
        device = self._layout.seq_idx_M.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self._seed + 1 + chunk.index) % (1 << 63))
            yield


def _grad_of(tensor: Tensor) -> Tensor:
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
