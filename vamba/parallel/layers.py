"""How the hybrid layers run: what they keep for the backward pass, and whether they are compiled.

    prepare_layers(model, ParallelConfig)      before `shard_model`: FSDP's hooks then run around the compiled code

Compiling stops at the kernels (scan, convolution, attention): they are tuned as they are, and their layouts hold numbers
of Python that differ from batch to batch, for each of which a compiled layer would be compiled again. What is compiled is
what lies between them, for lengths of any size (`dynamic`), so that a layer is compiled once with a video and once without.
"""  # noqa: E501

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import partial
from typing import Any

import torch

from vamba.ops.backends import Operations
from vamba.parallel.config import ParallelConfig
from vamba.parallel.context import ContextGroup
from vamba.parallel.over_ranks import OverRanks
from vamba.streaming.placement import Placement
from vamba.streaming.training import StreamingPlan

_COMPILERS = ("g++", "clang++", "c++")


class CompilerMissingError(ValueError):
    """parallel.compile was asked for where no C++ compiler is."""


def prepare_layers(model: Any, config: ParallelConfig) -> None:
    """Apply `config.activation` and `config.compile` to the layers of a hybrid, in place.

    Raises CompilerMissingError where torch.compile could not build its code.
    """
    model.set_activation_checkpointing(config.activation in ("layer", "streamed"))
    if config.compile:
        require_compiler()
        for layer in model.model.hybrid_layers:
            compile_layer(layer)


def streaming_plan(
    config: ParallelConfig, device: torch.device, context: ContextGroup | None = None, *, scan_chunk: int = 1
) -> StreamingPlan | None:
    """Which packs are streamed, and how; None where none is. context: ranks that share packs. scan_chunk: tokens."""
    if not config.streams:
        return None
    placement = Placement(kv=config.stream_kv, directory=config.stream_directory)
    plan = StreamingPlan(
        above_tokens=config.streamed_above_tokens,
        chunk_tokens=config.stream_chunk_tokens,
        open_store=partial(placement.open_store, device, torch.float32),
    )
    if context is None:
        return plan
    spread = OverRanks(context, scan_chunk)
    return replace(plan, above_tokens=spread.least_tokens, spread=spread)


def compile_layer(layer: Any, *, backend: str = "inductor") -> None:
    """Compile what lies between the kernels of one hybrid layer. The module stays, and so do its parameters' names."""
    layer.ops = _not_compiled(layer.ops)
    if layer.vision_mixer is not None:
        layer.vision_mixer.mixer.ops = layer.ops
    layer.forward = torch.compile(layer.forward, dynamic=True, backend=backend)


def require_compiler() -> None:
    """Raise CompilerMissingError unless a C++ compiler is on the path: inductor's host code needs one on a GPU too."""
    if not any(map(shutil.which, _COMPILERS)):
        raise CompilerMissingError(
            f"parallel.compile is true, but none of {', '.join(_COMPILERS)} is on this machine's PATH, and "
            "torch.compile needs a C++ compiler: install one (`apt-get install g++`), or set parallel.compile=false."
        )


def _not_compiled(ops: Operations) -> Operations:
    kernels = ("scan", "conv", "self_attention", "cross_attention")
    return replace(ops, **{name: torch.compiler.disable(getattr(ops, name)) for name in kernels})
