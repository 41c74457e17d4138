"""Times and bandwidths of every backend at the 7B model's shapes, against ceilings of the same run.

The ceilings are what this GPU reaches at that moment: a large bfloat16 matrix product, and a copy of some GB within its
memory. Work is counted as the algorithm needs it, not as a kernel does it: bytes are inputs read once and outputs
written once, products under a causal mask count half, and a backward pass counts twice the forward one (attention: 2.5
times).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import move, random_mixer
from benchmarks.gpu.inputs import Shapes, normal, scan_inputs, sequences
from benchmarks.gpu.machine import Machine, one_configuration, problem_of
from vamba.model.mixer import MixerState
from vamba.ops.attention.layout import cross_layout, segments
from vamba.ops.backends import Backends, available, choose


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    matmul_flops: float
    """FLOP/s of a bfloat16 matrix product."""
    copy_bytes: float
    """Bytes/s read and written by a copy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    operation: str
    backend: str
    passes: str
    """`forward`, or `both` with the backward pass."""
    size: str
    seconds: float | None = None
    flops: float = 0.0
    moved_bytes: float = 0.0
    peak_bytes: int | None = None
    problem: str | None = None

    def to_dict(self, ceilings: Ceilings) -> dict[str, Any]:
        if self.seconds is None:
            return asdict(self)
        flops, moved = self.flops / self.seconds, self.moved_bytes / self.seconds
        rates = {"flops_per_s": flops, "of_matmul": flops / ceilings.matmul_flops}
        return asdict(self) | rates | {"bytes_per_s": moved, "of_copy": moved / ceilings.copy_bytes}


def measure_ceilings(machine: Machine, shapes: Shapes) -> Ceilings:
    size = shapes.matmul
    a, b = (normal(size, size, device=machine.device, dtype=machine.low_precision, seed=seed) for seed in (1, 2))
    source = normal(shapes.copy_bytes // 2, device=machine.device, dtype=machine.low_precision)
    target = torch.empty_like(source)
    times = []
    for call in (lambda: a @ b, lambda: target.copy_(source)):
        call()
        times.append(machine.seconds(call, shapes.repeats))
    return Ceilings(matmul_flops=2 * size**3 / times[0], copy_bytes=2 * source.nbytes / times[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One operation to time: leaves in, outputs out, and the work of its forward pass."""

    operation: str
    backend: str
    size: str
    leaves: list[Tensor]
    call: Callable[[list[Tensor]], Any]
    flops: float
    bytes: float
    both_flops: float
    """Work of forward and backward together, over the forward's."""
    both_bytes: float
    weights: tuple[Tensor, ...] = ()
    """More that the backward pass goes to."""


def run_timings(machine: Machine, shapes: Shapes) -> Iterator[Timing]:
    for make_jobs in (_conv_jobs, _scan_jobs, _attention_jobs, _mixer_jobs):
        try:
            for job in make_jobs(machine, shapes):
                yield from _timed(machine, shapes, job)
        except Exception as error:
            name = make_jobs.__name__.strip("_").removesuffix("_jobs")
            yield Timing(operation=name, backend="", passes="", size="", problem=problem_of(error))
        machine.release()


def _timed(machine: Machine, shapes: Shapes, job: Job) -> Iterator[Timing]:
    leaves = [t.detach().requires_grad_() for t in job.leaves]
    outputs = [torch.empty(0)]

    def forward() -> None:
        with torch.no_grad():
            job.call(leaves)

    def both() -> None:
        outputs[:] = job.call(leaves)
        gradients = [t.detach() for t in outputs]  # any values: the time does not depend on them
        torch.autograd.grad(outputs, [*leaves, *job.weights], gradients, allow_unused=True)
        outputs.clear()

    for passes, call, flops, moved in (
        ("forward", forward, job.flops, job.bytes),
        ("both", both, job.flops * job.both_flops, job.bytes * job.both_bytes),
    ):
        row = Timing(operation=job.operation, backend=job.backend, passes=passes, size=job.size)
        try:
            for _ in range(2 if machine.is_gpu else 1):
                call()
            peak = machine.peak_bytes(call)
            seconds = machine.seconds(call, shapes.repeats)
        except Exception as error:
            yield replace(row, problem=problem_of(error))
            continue
        yield replace(row, seconds=seconds, flops=flops, moved_bytes=moved, peak_bytes=peak)


def _kernels(machine: Machine, **names: str) -> Any:
    """The operations with these names, and torch's for the rest."""
    return choose(Backends(**({"scan": "torch", "conv": "torch", "attention": "sdpa"} | names)), machine.device)


def _names(operation: str, machine: Machine) -> list[str]:
    return [name for name in available(operation, machine.device) if name != "reference"]


def _conv_jobs(machine: Machine, shapes: Shapes) -> Iterator[Job]:
    config, dtype = shapes.mixer, machine.low_precision
    channels, length = config.conv_dim, shapes.tokens
    row = config.d_inner + channels + config.num_heads
    wide = normal(1, length, row, device=machine.device, dtype=dtype)
    x = wide[..., config.d_inner : config.d_inner + channels]
    weight = normal(channels, config.d_conv, device=machine.device, dtype=dtype)
    bias = normal(channels, device=machine.device, dtype=dtype)
    for name in _names("conv", machine):
        conv = _kernels(machine, conv=name).conv
        yield Job(
            operation="conv",
            backend=name,
            size=f"{length:,} x {channels:,}",
            leaves=[x, weight, bias],
            call=lambda own, conv=conv: [conv(*own)[0]],
            flops=2 * config.d_conv * length * channels,
            bytes=2 * length * channels * dtype.itemsize,
            both_flops=3,
            both_bytes=2.5,
        )


def _scan_work(shapes: Shapes, itemsize: int) -> tuple[float, float]:
    """(FLOP, bytes) of a forward scan in chunks: C B^T and its product with x under the mask, to and from states."""
    config = shapes.mixer
    heads, values, states = config.num_heads, config.headdim, config.d_state
    inside = config.chunk_size * (config.ngroups * states + heads * values)
    flops = shapes.tokens * (inside + 4 * heads * values * states)
    moved = shapes.tokens * ((2 * heads * values + 2 * config.ngroups * states) * itemsize + 4 * heads)
    return flops, moved


def _scan_jobs(machine: Machine, shapes: Shapes) -> Iterator[Job]:
    config, dtype = shapes.mixer, machine.low_precision
    flops, moved = _scan_work(shapes, dtype.itemsize)
    given = scan_inputs(config, 1, shapes.tokens, machine.device, dtype)
    for name in _names("scan", machine):
        scan = _kernels(machine, scan=name).scan
        yield Job(
            operation="scan",
            backend=name,
            size=f"{shapes.tokens:,} x {config.num_heads} x {config.headdim}, {config.d_state} states",
            leaves=list(given.values()),
            call=lambda own, scan=scan: [scan(*own, chunk_size=config.chunk_size)[0]],
            flops=flops,
            bytes=moved,
            both_flops=3,
            both_bytes=3,
        )


def _attention_jobs(machine: Machine, shapes: Shapes) -> Iterator[Job]:
    heads, kv_heads, width, dtype = shapes.heads, shapes.kv_heads, shapes.head_dim, machine.low_precision
    texts = shapes.text_lengths
    cross = cross_layout([shapes.cross_queries], [shapes.cross_keys])
    pairs = sum(n * (n + 1) // 2 for n in texts)
    cases = (
        ("self_attention", segments(texts), sum(texts), sum(texts), pairs, "+".join(map(str, texts))),
        (
            "cross_attention",
            cross,
            shapes.cross_queries,
            shapes.cross_keys,
            shapes.cross_queries * shapes.cross_keys,
            f"{shapes.cross_queries} over {shapes.cross_keys:,}",
        ),
    )
    for operation, layout, queries, keys, products, size in cases:
        moved_layout = move(layout, machine.device)
        q = normal(queries, heads, width, device=machine.device, dtype=dtype)
        k, v = (normal(keys, kv_heads, width, device=machine.device, dtype=dtype, seed=seed) for seed in (1, 2))
        for name in _names("attention", machine):
            attend = getattr(_kernels(machine, attention=name), operation)
            yield Job(
                operation=operation.replace("_", " "),
                backend=name,
                size=size,
                leaves=[q, k, v],
                call=lambda own, attend=attend, layout=moved_layout: [attend(*own, layout=layout)],
                flops=4 * products * heads * width,
                bytes=(2 * q.numel() + k.numel() + v.numel()) * dtype.itemsize,
                both_flops=3.5,
                both_bytes=3,
            )


def _mixer_jobs(machine: Machine, shapes: Shapes) -> Iterator[Job]:
    config, dtype, length = shapes.mixer, machine.low_precision, shapes.tokens
    scan_flops, _ = _scan_work(shapes, dtype.itemsize)
    row = config.d_inner + config.conv_dim + config.num_heads
    u = normal(1, length, config.hidden_dim, device=machine.device, dtype=dtype)
    convs, scans = _names("conv", machine), _names("scan", machine)
    for conv, scan in dict.fromkeys([("torch", "torch"), (convs[-1], "torch"), (convs[-1], scans[-1])]):
        mixer = random_mixer(config, _kernels(machine, conv=conv, scan=scan), machine.device, dtype)
        weights = tuple(mixer.parameters())
        yield Job(
            operation="mixer",
            backend=f"{conv} + {scan}",
            size=f"{length:,} x {config.hidden_dim}",
            leaves=[u],
            call=lambda own, mixer=mixer: [mixer(own[0])[0]],
            flops=2 * length * config.hidden_dim * (row + config.d_inner) + scan_flops,
            bytes=(2 * u.numel() + sum(w.numel() for w in weights)) * dtype.itemsize,
            both_flops=3,
            both_bytes=3,
            weights=weights,
        )


def run_without_synchronization(machine: Machine, shapes: Shapes) -> list[dict[str, Any]]:
    """A mixer with packed sequences and carried states, forward and backward, where waiting for the GPU raises.

    Of the shape that was checked, for which its kernels are compiled: what waits does so at any width.
    """
    config, dtype = replace(shapes.mixer, hidden_dim=shapes.check_hidden), machine.low_precision
    length = shapes.check_lengths[-1]
    u = normal(2, length, config.hidden_dim, device=machine.device, dtype=dtype).requires_grad_()
    seq = sequences(2, length, (config.chunk_size, config.chunk_size + 13), machine.device)
    state = MixerState(
        conv_BCW=normal(2, config.conv_dim, config.d_conv, device=machine.device, dtype=dtype),
        ssm_BHPN=normal(2, config.num_heads, config.headdim, config.d_state, device=machine.device),
    )
    convs, scans = _names("conv", machine), _names("scan", machine)
    results = []
    for conv, scan in dict.fromkeys([("torch", "torch"), (convs[-1], scans[-1])]):

        def step(mixer: Any) -> None:
            out, after = mixer(u, seq, state)
            gradients = [t.detach() for t in (out, after.conv_BCW, after.ssm_BHPN)]
            torch.autograd.backward([out, after.conv_BCW, after.ssm_BHPN], gradients)

        problem = None
        try:
            mixer = random_mixer(config, _kernels(machine, conv=conv, scan=scan), machine.device, dtype)
            with one_configuration():
                step(mixer)
                with machine.no_synchronization():
                    step(mixer)
        except Exception as error:
            problem = problem_of(error)
        results.append({"backend": f"{conv} + {scan}", "problem": problem})
    return results
