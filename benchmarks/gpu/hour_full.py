"""Full attention over text and video, as Qwen2-VL-7B has it: the same tower, self-attention and MLP weights, no mixer.

Its attention grows with the square of the length, so that not all of it can be run. What is measured is as kind to it
as can be: no video token gets logits; MLPs run a few thousand rows at once, attention by the fastest kernel that torch
has; in training only self-attention is trained, which saves the MLPs' weight gradients, and each layer is recomputed
once.

    short    some layers on the whole sequence, times the rest of them
    long     `rows` queries over half of the keys, which is what they see on average, times all rows and layers
Times are those plus the tower's, measured by itself. Memory is what all of it would need at least.

Shapes: L tokens, S queries of a sample, D width, H heads, K key/value heads, V values per head.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from benchmarks.gpu.hour_floors import floor_seconds
from benchmarks.gpu.hour_inputs import pieces
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.hour_report import Row
from benchmarks.gpu.hour_streamed import timed
from benchmarks.gpu.inputs import normal
from benchmarks.gpu.machine import Machine, problem_of
from vamba.data.batch import to_device, tower_layout
from vamba.model.layer import HybridLayer
from vamba.model.positions import Rotary, rotate, text_rotary
from vamba.model.vamba import Vamba

_PROBE_TOKENS = 16_384
_PACE = 2.0
"""Times the floor: what a layer is expected to take, to choose how many are run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Time:
    seconds: float
    """Of all layers."""
    how: str


class FullAttention:
    """Passes of the language model's own layers over random tokens, with the weights of the hybrid."""

    def __init__(self, machine: Machine, preset: Preset, model: Vamba) -> None:
        self._machine, self._preset, self._model, self._config = machine, preset, model, model.architecture
        self._layers = model.model.hybrid_layers
        self.kernels = _fastest(machine, preset)
        """Names of torch's attention kernels, the fastest first."""
        self._tower_s = self._tower_seconds_per_token()

    def measure(self, frames: int, passes: str, *, sampled: bool | None = None) -> Row:
        """passes: `prefill` or `train step`. sampled: None for what the time allows."""
        tokens = self._preset.tokens(frames)
        depth = self._config.num_hidden_layers
        of_a_layer = _PACE * floor_seconds("full attention", passes, tokens) / depth
        if sampled is None:
            sampled = of_a_layer > self._preset.slice_s
        count = max(1, min(depth, int(self._preset.slice_s / of_a_layer)))
        run = partial(self._sample, tokens, passes) if sampled else partial(self._slice, tokens, passes, count)
        try:
            found = run()
        except RuntimeError as error:  # cuDNN has no plan for some lengths
            if len(self.kernels) < 2:
                raise
            print(f"{self.kernels.pop(0).name} left out: {problem_of(error)}", flush=True)
            found = run()
        return Row(
            model="full attention",
            passes=passes,
            frames=frames,
            tokens=tokens,
            seconds=found.seconds + self._tower_s * tokens,
            needs_bytes=self._needs(tokens, passes),
            how=found.how,
        )

    def _needs(self, tokens: int, passes: str) -> int:
        """Weights in 2 bytes; keys and values, or trained weights' optimizer and the input of each layer."""
        config, item = self._config, 2
        own = sum(
            p.numel() for name, p in self._model.named_parameters() if not ("cross_attn" in name or "mixer" in name)
        )
        if passes == "prefill":
            kept = 2 * config.num_key_value_heads * config.head_dim
            return item * (own + config.num_hidden_layers * kept * tokens)
        trained = sum(p.numel() for layer in self._layers for p in layer.self_attn.parameters())
        return item * (own + config.num_hidden_layers * config.hidden_size * tokens) + 12 * trained

    def _slice(self, tokens: int, passes: str, count: int) -> _Time:
        layers = self._layers[:count]
        stream_LD, rotary = self._stream(tokens), self._rotary(tokens)
        call = self._forward if passes == "prefill" else self._train
        call(layers[:1], stream_LD, rotary)  # cuDNN makes a plan for every length
        _, cost = timed(self._machine, partial(call, layers, stream_LD, rotary))
        scale = self._config.num_hidden_layers / count
        return _Time(seconds=cost.seconds * scale, how=f"{count} layers, whole sequence")

    @torch.no_grad()
    def _forward(self, layers: list[HybridLayer], stream_LD: Tensor, rotary: Rotary) -> list[Tensor]:
        kept: list[Tensor] = []
        for layer in layers:
            stream_LD, k_LKV, v_LKV = self._attend(layer, stream_LD, rotary, None)
            kept += (k_LKV, v_LKV)
            stream_LD = torch.cat([_mlp(layer, rows) for rows in stream_LD.split(self._preset.rows)])
        return kept

    def _train(self, layers: list[HybridLayer], stream_LD: Tensor, rotary: Rotary) -> None:
        with _Trained(layers):
            out_LD = stream_LD.requires_grad_()
            for layer in layers:
                out_LD, _, _ = _again(self._attend, layer, out_LD, rotary, None)
                out_LD = torch.cat([_again(_mlp, layer, rows) for rows in out_LD.split(self._preset.rows)])
            out_LD.backward(stream_LD.detach())

    def _sample(self, tokens: int, passes: str) -> _Time:
        """The queries in the middle of the sequence, which see half of it."""
        rows = min(self._preset.rows, tokens)
        layer, rotary = self._layers[:1], self._rotary(rows)
        stream_SD = self._stream(rows)
        config = self._config
        shape = (1, config.num_key_value_heads, max(1, tokens // 2), config.head_dim)
        keys = tuple(self._random(*shape, seed=seed) for seed in (1, 2))

        @torch.no_grad()
        def prefill() -> None:
            stream, _, _ = self._attend(layer[0], stream_SD, rotary, keys)
            _mlp(layer[0], stream)

        def train() -> None:
            with _Trained(layer):
                own = [t.detach().requires_grad_() for t in (stream_SD, *keys)]
                stream, k, v = _again(self._attend, layer[0], own[0], rotary, (own[1], own[2]))
                out = _again(_mlp, layer[0], stream)
                torch.autograd.backward([out, k, v], [out.detach(), k.detach(), v.detach()])

        run = prefill if passes == "prefill" else train
        run()
        _, cost = timed(self._machine, run)
        scale = self._config.num_hidden_layers * tokens / rows
        how = f"{rows:,} queries over {shape[2]:,} keys in one layer"
        return _Time(seconds=cost.seconds * scale, how=how)

    def _attend(
        self, layer: HybridLayer, stream_LD: Tensor, rotary: Rotary, keys: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(stream, keys, values): causal among the tokens, or over the given keys and values alone."""
        own, head_dim = layer.self_attn, self._config.head_dim
        n_LD = layer.input_layernorm(stream_LD)
        q_LHV, k_LKV, v_LKV = (
            proj(n_LD).unflatten(-1, (-1, head_dim)) for proj in (own.q_proj, own.k_proj, own.v_proj)
        )
        q_LHV, k_LKV = rotate(q_LHV, rotary), rotate(k_LKV, rotary)
        k, v = (t.transpose(0, 1)[None] for t in (k_LKV, v_LKV)) if keys is None else keys
        out = _attention(q_LHV.transpose(0, 1)[None], k, v, is_causal=keys is None, kernels=self.kernels)
        return stream_LD + own.o_proj(out[0].transpose(0, 1).flatten(1)), k_LKV, v_LKV

    def _stream(self, tokens: int) -> Tensor:
        return self._random(tokens, self._config.hidden_size, seed=0)

    def _random(self, *shape: int, seed: int) -> Tensor:
        """Drawn in the final precision: in float32 the longest would take 18 GB."""
        made = torch.empty(shape, device=self._machine.device, dtype=self._machine.low_precision)
        return made.normal_(generator=torch.Generator(self._machine.device).manual_seed(seed))

    def _rotary(self, tokens: int) -> Rotary:
        positions = torch.arange(tokens, device=self._machine.device)
        return text_rotary(positions, self._config.head_dim, self._config.rope_theta, self._machine.low_precision)

    @torch.no_grad()
    def _tower_seconds_per_token(self) -> float:
        preset, device = self._preset, self._machine.device
        patches_PC, grid = next(pieces(preset, 2 * max(1, preset.chunk_tokens // preset.tokens_per_pair), device))
        layout = to_device(tower_layout([grid], merge_size=self._config.vision.spatial_merge_size), device)
        run = partial(self._model.visual, patches_PC, layout)
        run()
        made_MD, cost = timed(self._machine, lambda: [run() for _ in range(3)][0])
        return cost.seconds / (3 * len(made_MD))


def _again(call: Callable[..., Any], *arguments: Any) -> Any:
    """A call that is run again in the backward pass."""
    return checkpoint(call, *arguments, use_reentrant=False, preserve_rng_state=False)


class _Trained:
    """Inside, self-attention of the layers is trained; its gradients are dropped at the end."""

    def __init__(self, layers: list[HybridLayer]) -> None:
        self._parameters = [p for layer in layers for p in layer.self_attn.parameters()]

    def __enter__(self) -> None:
        for parameter in self._parameters:
            parameter.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for parameter in self._parameters:
            parameter.grad = None
            parameter.requires_grad_(False)


def _mlp(layer: HybridLayer, stream_LD: Tensor) -> Tensor:
    return stream_LD + layer.mlp(layer.post_attention_layernorm(stream_LD))


def _attention(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool, kernels: list[SDPBackend]) -> Tensor:
    if not kernels:
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)
    with sdpa_kernel(kernels, set_priority=True):
        return F.scaled_dot_product_attention(q, k, v, is_causal=is_causal, enable_gqa=True)


def _fastest(machine: Machine, preset: Preset) -> list[SDPBackend]:
    """Torch's flash attention, and cuDNN's where that is there and faster, forward and backward; none on a CPU."""
    if not machine.is_gpu:
        return []
    heads, kv_heads, width = preset.shapes.heads, preset.shapes.kv_heads, preset.shapes.head_dim
    q, k, v = (
        normal(1, number, _PROBE_TOKENS, width, device=machine.device, dtype=machine.low_precision, seed=seed)
        for seed, number in enumerate((heads, kv_heads, kv_heads))
    )
    leaves = [t.requires_grad_() for t in (q, k, v)]
    times: dict[SDPBackend, float] = {}
    for kernel in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):
        try:
            for is_causal in (True, False):
                run = partial(_forward_backward, leaves, kernel, is_causal)
                run()
                times[kernel] = times.get(kernel, 0.0) + machine.seconds(run, 3)
        except Exception as error:
            times[kernel] = math.inf
            print(f"{kernel}: {problem_of(error)}", flush=True)
    usable = [kernel for kernel in sorted(times, key=times.__getitem__) if times[kernel] < math.inf]
    print(", ".join(f"{kernel.name} {times[kernel] * 1e3:.1f} ms" for kernel in usable), flush=True)
    return usable


def _forward_backward(leaves: list[Tensor], kernel: SDPBackend, is_causal: bool) -> None:
    out = _attention(*leaves, is_causal=is_causal, kernels=[kernel])
    torch.autograd.grad(out, leaves, out.detach())
