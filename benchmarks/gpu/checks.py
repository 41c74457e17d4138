"""Every backend that can run here against the definition: outputs, states and gradients, on awkward lengths.

    inputs in the checked dtype ─┬─> backend in that dtype ────> outputs, gradients ─┐
                                 └─> reference in float64 ─────> outputs, gradients ─┴─> relative error of each tensor

Rows are packed and carry a state, with a sequence that starts at a chunk boundary and another inside a chunk.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.inputs import Shapes, normal, scan_inputs, sequences
from benchmarks.gpu.machine import Machine, one_configuration, problem_of
from vamba.model.mixer import Mamba2Mixer, MixerState
from vamba.ops.attention import reference as attention_reference
from vamba.ops.attention.layout import CrossLayout, Segments, cross_layout, segments
from vamba.ops.backends import Backends, available, choose
from vamba.ops.conv import reference as conv_reference
from vamba.ops.scan import reference as scan_reference

TOLERANCE = {torch.float32: 1e-4, torch.float16: 5e-3, torch.bfloat16: 3e-2}
"""Largest relative error (2-norm) of any output or gradient: the inputs are the same, the roundings are not."""

Leaves = Sequence[Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    operation: str
    backend: str
    dtype: str
    case: str
    worst: str
    """The tensor with the largest error."""
    error: float | None
    tolerance: float
    problem: str | None = None

    @property
    def ok(self) -> bool:
        return self.error is not None and self.error <= self.tolerance

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"ok": self.ok}


def run_checks(machine: Machine, shapes: Shapes) -> Iterator[Check]:
    """One after the other; a backend that raises is a finding, not the end."""
    with exact_float32():
        for dtype in (torch.float32, machine.low_precision):
            for backend in _backends("conv", machine):
                yield from _checked("conv", backend, dtype, _conv_cases(machine, shapes, dtype, backend))
            for backend in _backends("scan", machine):
                yield from _checked("scan", backend, dtype, _scan_cases(machine, shapes, dtype, backend))
            for backend in _backends("attention", machine):
                if backend != "flash_attn" or dtype != torch.float32:
                    yield from _checked("attention", backend, dtype, _attention_cases(machine, shapes, dtype, backend))
            for conv, scan in _pairs(machine):
                cases = _mixer_cases(machine, shapes, dtype, conv, scan)
                yield from _checked("mixer", f"{conv} + {scan}", dtype, cases)


def _backends(operation: str, machine: Machine) -> list[str]:
    return [name for name in available(operation, machine.device) if name != "reference"]


def _pairs(machine: Machine) -> list[tuple[str, str]]:
    """(conv, scan) of the mixers to check: torch alone, and the kernels that are there."""
    convs, scans = _backends("conv", machine), _backends("scan", machine)
    return list(dict.fromkeys([("torch", "torch"), (convs[-1], scans[-1])]))


Case = tuple[str, dict[str, Tensor], Callable[[Leaves], Leaves], Callable[[Leaves], Leaves]]
"""(name, leaves by name, what is checked, the definition): both map leaves to outputs."""


def _checked(operation: str, backend: str, dtype: torch.dtype, cases: Iterator[Case]) -> Iterator[Check]:
    name = str(dtype).removeprefix("torch.")
    case, running = "start", True
    while running:
        values: dict[str, Any] = {"worst": "", "error": None, "problem": None}
        try:
            # A backend that does not even load says so here.
            case, leaves, function, definition = next(cases)
            with one_configuration() if backend.endswith("mamba_ssm") else contextlib.nullcontext():
                errors = _errors(leaves, function, definition)
            values["worst"], values["error"] = max(errors.items(), key=lambda item: item[1])
        except StopIteration:
            return
        except Exception as error:
            values["problem"], running = problem_of(error), False
        yield Check(operation=operation, backend=backend, dtype=name, case=case, tolerance=TOLERANCE[dtype], **values)


def _errors(leaves: dict[str, Tensor], function: Any, definition: Any) -> dict[str, float]:
    results = []
    for call, wide in ((function, False), (definition, True)):
        own = [(t.double() if wide else t).detach().requires_grad_() for t in leaves.values()]
        outputs = call(own)
        loss = torch.stack([_weighted(t) for t in outputs]).sum()
        gradients = torch.autograd.grad(loss, own, allow_unused=True, materialize_grads=True)
        names = [*(f"output {i}" for i in range(len(outputs))), *(f"d{name}" for name in leaves)]
        results.append(dict(zip(names, (t.detach().double() for t in (*outputs, *gradients)), strict=True)))
    actual, wanted = results
    return {name: ((actual[name] - w).norm() / w.norm().clamp(min=1e-30)).item() for name, w in wanted.items()}


def _weighted(t: Tensor) -> Tensor:
    """A sum whose gradient differs from element to element."""
    return (t.double() * torch.linspace(-1, 1, t.numel(), dtype=torch.float64, device=t.device).view_as(t)).sum()


def _conv_cases(machine: Machine, shapes: Shapes, dtype: torch.dtype, backend: str) -> Iterator[Case]:
    conv = choose(Backends(scan="reference", conv=backend, attention="reference"), machine.device).conv
    channels, width = 2 * shapes.check_hidden + 5, shapes.mixer.d_conv
    for length in shapes.check_lengths:
        wide = normal(2, length, channels + 3, device=machine.device, dtype=dtype)
        leaves = {
            "x": wide[..., 3:],
            "weight": normal(channels, width, device=machine.device, dtype=dtype, seed=1),
            "bias": normal(channels, device=machine.device, dtype=dtype, seed=2),
            "state": normal(2, channels, width, device=machine.device, dtype=dtype, seed=3),
        }
        seq = sequences(2, length, (2, length // 2), machine.device)

        def call(function: Any, own: Leaves, seq: Tensor = seq) -> Leaves:
            return function(*own[:3], seq_idx_BL=seq, initial_state_BCW=own[3])

        yield f"{length} tokens", leaves, lambda own: call(conv, own), lambda own: call(conv_reference.conv, own)


def _scan_cases(machine: Machine, shapes: Shapes, dtype: torch.dtype, backend: str) -> Iterator[Case]:
    scan = choose(Backends(scan=backend, conv="reference", attention="reference"), machine.device).scan
    config = replace(shapes.mixer, hidden_dim=shapes.check_hidden)
    for length in shapes.check_lengths:
        leaves = scan_inputs(config, 2, length, machine.device, dtype)
        state = (2, config.num_heads, config.headdim, config.d_state)
        leaves["state"] = normal(*state, device=machine.device, seed=5)
        seq = sequences(2, length, (config.chunk_size, config.chunk_size + 13), machine.device)

        def call(function: Any, own: Leaves, seq: Tensor = seq) -> Leaves:
            return function(*own[:6], chunk_size=config.chunk_size, seq_idx_BL=seq, initial_state_BHPN=own[6])

        yield f"{length} tokens", leaves, lambda own: call(scan, own), lambda own: call(scan_reference.scan, own)


def _attention_cases(machine: Machine, shapes: Shapes, dtype: torch.dtype, backend: str) -> Iterator[Case]:
    ops = choose(Backends(scan="reference", conv="reference", attention=backend), machine.device)
    texts, videos = [3, shapes.check_lengths[-1], 11], [17, 0, shapes.check_lengths[-1]]
    cross = cross_layout(texts, videos)
    assert cross is not None
    layouts: tuple[tuple[str, Segments | CrossLayout, Any, Any, int], ...] = (
        ("self", segments(texts), ops.self_attention, attention_reference.self_attention, sum(texts)),
        ("cross", cross, ops.cross_attention, attention_reference.cross_attention, sum(videos)),
    )
    for name, layout, function, definition, keys in layouts:
        moved = move(layout, machine.device)
        sizes = ((sum(texts), 2 * shapes.kv_heads), (keys, shapes.kv_heads), (keys, shapes.kv_heads))
        leaves = {
            label: normal(*size, shapes.head_dim, device=machine.device, dtype=dtype, seed=seed)
            for seed, (label, size) in enumerate(zip("qkv", sizes, strict=True))
        }

        def over(attend: Any, moved: Any = moved) -> Callable[[Leaves], Leaves]:
            return lambda own: [attend(*own, layout=moved)]

        yield name, leaves, over(function), over(definition)


def _mixer_cases(machine: Machine, shapes: Shapes, dtype: torch.dtype, conv: str, scan: str) -> Iterator[Case]:
    config = replace(shapes.mixer, hidden_dim=shapes.check_hidden)
    length = shapes.check_lengths[-1]
    mixers = []
    for names, kind in (((conv, scan), dtype), (("reference", "reference"), torch.float64)):
        ops = choose(Backends(conv=names[0], scan=names[1], attention="reference"), machine.device)
        mixers.append(random_mixer(config, ops, machine.device, dtype).to(kind))
    leaves = {
        "u": normal(2, length, config.hidden_dim, device=machine.device, dtype=dtype, seed=1),
        "conv state": normal(2, config.conv_dim, config.d_conv, device=machine.device, dtype=dtype, seed=2),
        "ssm state": normal(2, config.num_heads, config.headdim, config.d_state, device=machine.device, seed=3),
    }
    seq = sequences(2, length, (config.chunk_size, config.chunk_size + 13), machine.device)

    def call(mixer: Mamba2Mixer, own: Leaves) -> Leaves:
        out, state = mixer(own[0], seq, MixerState(conv_BCW=own[1], ssm_BHPN=own[2]))
        return [out, state.conv_BCW, state.ssm_BHPN]

    yield f"{length} tokens", leaves, lambda own: call(mixers[0], own), lambda own: call(mixers[1], own)


def random_mixer(config: Any, ops: Any, device: torch.device, dtype: torch.dtype) -> Mamba2Mixer:
    """A mixer whose weights are rounded to `dtype` and whose decays are those of a fresh model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        mixer = Mamba2Mixer(config, ops)
        with torch.no_grad():
            mixer.A_log.copy_(torch.empty(config.num_heads).uniform_(*config.A_init_range).log())
            mixer.dt_bias.copy_(torch.empty(config.num_heads).uniform_(-5, -2))
            mixer.D.fill_(1.0)
    return mixer.to(device=device, dtype=dtype)


def move(layout: Any, device: torch.device) -> Any:
    """A layout with its tensors on the device."""
    if isinstance(layout, CrossLayout):
        queries, keys = move(layout.queries, device), move(layout.keys, device)
        mask, tokens = (None if t is None else t.to(device) for t in (layout.key_mask_GL, layout.query_tokens))
        return replace(layout, queries=queries, keys=keys, key_mask_GL=mask, query_tokens=tokens)
    return replace(layout, cu_seqlens=layout.cu_seqlens.to(device), slot_T=layout.slot_T.to(device))


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Inside, products of float32 numbers are float32, in Triton and in torch, not TF32."""
    before, allowed = os.environ.get("TRITON_F32_DEFAULT"), torch.backends.cuda.matmul.allow_tf32
    os.environ["TRITON_F32_DEFAULT"] = "ieee"
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = allowed
        os.environ.pop("TRITON_F32_DEFAULT")
        if before is not None:
            os.environ["TRITON_F32_DEFAULT"] = before
