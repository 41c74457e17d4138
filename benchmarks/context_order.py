"""The order of work of ranks that share a video: as a calculation, and with real messages between ranks that sleep.

Where a layer takes a fixed time because the rank sleeps instead of computing, a machine of few cores shows what more ranks
wait for: used by `benchmarks.context`.
"""  # noqa: E501

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vamba.model.mixer import MixerState
from vamba.streaming.chunks import cut

LAYER_S = 0.1


def waiting_shares(num_chunks: int, ranks: int, layers: int) -> list[float]:
    """Of each rank, the share of the time until all are done in which it waits. Backward is the mirror image."""
    free, waited = [0.0] * ranks, [0.0] * ranks
    left = [0.0] * layers  # when the chunk before was through each layer
    for chunk in range(num_chunks):
        rank = chunk % ranks
        now = free[rank]
        for layer in range(layers):
            begin = max(now, left[layer])
            waited[rank] += begin - now
            now = left[layer] = begin + 1
        free[rank] = now
    end = max(free)
    return [(lost + end - done) / end for lost, done in zip(waited, free, strict=True)]


def slept_shares(num_chunks: int, ranks: int, layers: int) -> list[float]:
    """The same, measured: states of the small preset's size travel between processes, and a layer is a sleep."""
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(_sleeper, args=(ranks, num_chunks, layers, scratch), nprocs=ranks, join=True)
        return list(json.loads(Path(scratch, "shares.json").read_text()))


def _sleeper(rank: int, ranks: int, num_chunks: int, layers: int, scratch: str) -> None:
    import torch.distributed as dist

    from benchmarks.model_passes import CONFIG
    from vamba.parallel.context import build_context
    from vamba.parallel.passing import RankCarry, StateShape

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=ranks)
    context = build_context(ranks)
    assert context is not None
    shape = StateShape.of(CONFIG.mixer, torch.float32)
    state = MixerState(conv_BCW=torch.ones(shape.conv_BCW), ssm_BHPN=torch.ones(shape.ssm_BHPN))
    chunks = [chunk for chunk in cut([0, num_chunks], 1) if context.owns(chunk.index)]
    carry = RankCarry.forward(shape, context, chunks, range(layers))
    dist.barrier()
    started = time.perf_counter()
    slept = 0.0
    for chunk in chunks:
        for layer in range(layers):
            if not chunk.begins_sample:
                carry.take(chunk.index, layer)
            before = time.perf_counter()
            time.sleep(LAYER_S)
            slept += time.perf_counter() - before
            if not chunk.ends_sample:
                carry.give(chunk.index, layer, state)
    carry.close()
    dist.barrier()
    took = time.perf_counter() - started
    everyone: list[Any] = [None] * ranks
    dist.all_gather_object(everyone, round(1 - slept / took, 4))
    if rank == 0:
        Path(scratch, "shares.json").write_text(json.dumps(everyone))
    dist.destroy_process_group()
