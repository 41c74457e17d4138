"""Compiles what a mixer of the measured model needs, in parallel: `python -m benchmarks.gpu.hour_warm 3 12`.

As `benchmarks.gpu.warm`, but by way of the mixer itself, as it is called: with float32 A and D, with and without a
state that comes in, on whole chunks and on last ones whose length is a multiple of 16 and is none. Triton compiles each
of these anew. The most frequent come first, since who starts these processes waits only so long.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from benchmarks.gpu.hour_model import backends_of
from benchmarks.gpu.hour_presets import HOUR, REHEARSAL, Preset
from benchmarks.gpu.inputs import normal
from benchmarks.gpu.machine import Machine, configurations, prepare, run_module
from vamba.model.init import initial_value
from vamba.model.mixer import Mamba2Mixer
from vamba.ops.backends import choose
from vamba.parallel.sharding import is_full_precision

_PROCESSES = 12


def start(machine: Machine) -> list[subprocess.Popen[str]]:
    """Processes for `benchmarks.gpu.warm.finish`."""
    if not machine.is_gpu:  # one share of very many: each kernel's first configuration and its last
        return [run_module("benchmarks.gpu.hour_warm", "0", "1000", "--dry-run")]
    return [run_module("benchmarks.gpu.hour_warm", str(n), str(_PROCESSES)) for n in range(_PROCESSES)]


def lengths(preset: Preset) -> Iterator[tuple[int, bool]]:
    """(tokens, whether a state comes in) of the calls to compile."""
    chunk = preset.model.mixer.chunk_size
    whole = preset.chunk_tokens
    last = max(whole // 2 - chunk, chunk)  # a number of the scan's chunks that is no multiple of 16 either
    yield from ((whole, False), (whole, True), (last, True), (last - 8, True), (last, False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("share", type=int)
    parser.add_argument("processes", type=int)
    parser.add_argument("--dry-run", action="store_true")
    arguments = parser.parse_args()
    machine = prepare(dry_run=arguments.dry_run, wheels=[])
    preset = REHEARSAL if arguments.dry_run else HOUR
    mixer = mixer_of(preset, machine)
    run_once()
    # The last one comes along, so that the tuner has a choice where a share's own one needs more memory than there is.
    with configurations(lambda configs: [c for i, c in enumerate(configs) if _is_mine(i, len(configs), arguments)]):
        for tokens, continues in lengths(preset):
            run(mixer, tokens, machine, continues=continues)


def run_once() -> None:
    """Let Triton's tuner call a configuration once and like all the same: what matters here is that they are compiled,
    and processes that share a GPU would wait for each other's measurements."""
    from triton.runtime.autotuner import Autotuner

    def once(call: Callable[[], Any], quantiles: Sequence[float] = (0.5,)) -> list[float]:
        call()
        return [1.0 for _ in quantiles]

    Autotuner.do_bench = staticmethod(once)


def mixer_of(preset: Preset, machine: Machine) -> Mamba2Mixer:
    """A mixer of the preset's model, trained."""
    mixer = Mamba2Mixer(preset.model.mixer, choose(backends_of(machine), machine.device))
    mixer = mixer.to(machine.device)
    for name, parameter in mixer.named_parameters():
        if parameter.numel() <= 1 << 16:
            full_name = f"vision_mixer.mixer.{name}"
            parameter.data = initial_value(full_name, tuple(parameter.shape), preset.model, 0).to(machine.device)
        if not is_full_precision(name):
            parameter.data = parameter.data.to(machine.low_precision)
    return mixer


def run(mixer: Mamba2Mixer, tokens: int, machine: Machine, *, continues: bool) -> None:
    """One call, forward without gradients, and forward and backward."""
    u = normal(1, tokens, mixer.config.hidden_dim, device=machine.device, dtype=machine.low_precision)
    state = None
    with torch.no_grad():
        _, before = mixer(u)
    if continues:
        state = before
        state.ssm_BHPN.requires_grad_()
        state.conv_BCW.requires_grad_()
    out, after = mixer(u.requires_grad_(), None, state, recompute=True)
    made = [out, after.conv_BCW, after.ssm_BHPN]
    torch.autograd.backward(made, [torch.ones_like(t) for t in made])
    mixer.zero_grad(set_to_none=True)


def _is_mine(index: int, count: int, arguments: argparse.Namespace) -> bool:
    return index % arguments.processes == arguments.share or index == count - 1


if __name__ == "__main__":
    main()
