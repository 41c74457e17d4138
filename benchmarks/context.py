"""How long ranks that share a video wait for each other, against what their wavefront can't avoid.

    python -m benchmarks.context [--ranks 2] [--runs 3] [--slept] [--out FILE.json]

One video of a few thousand tokens runs through a model of the small preset's width, on one rank and on `--ranks` of
them, each a process with one compute thread: the video encoded, and a training pass (forward, text, backward). Of each
rank the share of the time in which it waited for states, and in which it was idle, whatever for: one less its processor
time over the wall time. Beside it the share that follows from the order of work alone: a schedule in which every layer
of a chunk takes the same time and messages none, and in which a rank begins a layer when its chunk is through the layer
below and the chunk before is through this one.

More ranks than a small machine has cores are tried with layers that sleep for a fixed time (`context_order.py`): states
and messages are real, computing is not.

Speed-up is one rank's time over the slowest rank's. Needs as many idle cores as ranks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.context_order import LAYER_S, slept_shares, waiting_shares
from benchmarks.model_passes import CONFIG
from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.text import EncodedText

LAYERS, TOWER_DEPTH, TEXT_TOKENS = 8, 2, 32
SLEPT = ((2, 16, 8), (4, 32, 8), (8, 64, 16))
"""(ranks, chunks, layers)"""
PAIRS, SIDE, CHUNK_TOKENS = 64, 16, 512


def batch() -> Batch:
    import numpy as np

    rng = np.random.default_rng(0)
    ids = rng.integers(0, CONFIG.vocab_size, TEXT_TOKENS)
    patches = rng.standard_normal((PAIRS * SIDE**2, CONFIG.vision.patch_values)).astype(np.float32)
    text = EncodedText(input_ids=ids, labels=ids)
    return collate([EncodedSample(id="video", patches=patches, grid_thws=((PAIRS, SIDE, SIDE),), texts=(text,))])


def measure(ranks: int, runs: int) -> dict[str, Any]:
    import torch.multiprocessing as mp

    with tempfile.TemporaryDirectory() as scratch:
        mp.spawn(_rank, args=(ranks, runs, scratch), nprocs=ranks, join=True)
        return dict(json.loads(Path(scratch, "measured.json").read_text()))


def _rank(rank: int, ranks: int, runs: int, scratch: str) -> None:
    import torch.distributed as dist

    from vamba.model.init import init_weights_
    from vamba.model.vamba import Vamba
    from vamba.parallel.config import ParallelConfig
    from vamba.parallel.context import build_context
    from vamba.parallel.layers import streaming_plan

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{scratch}/rendezvous", rank=rank, world_size=ranks)
    config = replace(CONFIG, num_hidden_layers=LAYERS, vision=replace(CONFIG.vision, depth=TOWER_DEPTH))
    model = Vamba(config)
    init_weights_(model)
    model.visual.requires_grad_(False)
    parallel = ParallelConfig(
        context=ranks, activation="streamed", streamed_above_tokens=0, stream_chunk_tokens=CHUNK_TOKENS
    )
    plan = streaming_plan(parallel, torch.device("cpu"), build_context(ranks), scan_chunk=config.mixer.chunk_size)
    found = {name: _timed(name, model, plan, runs, counts=rank == 0) for name in ("encode", "train")}
    everyone: list[Any] = [None] * ranks
    dist.all_gather_object(everyone, found)
    if rank == 0:
        Path(scratch, "measured.json").write_text(json.dumps({name: [one[name] for one in everyone] for name in found}))
    dist.destroy_process_group()


def _timed(name: str, model: Any, plan: Any, runs: int, *, counts: bool) -> dict[str, float]:
    """Median seconds, of the video alone (encode) or of all (train), and of waiting for states in them."""
    import torch.distributed as dist

    from vamba.streaming.training import forward_backward, loss_of

    given, device = batch(), torch.device("cpu")
    seconds, waits, idle = [], [], []
    for run in range(runs + 1):
        model.zero_grad()
        dist.barrier()
        started, worked = time.perf_counter(), time.process_time()
        if name == "encode":
            loss_of(model, given, plan, device=device)
        else:
            forward_backward(model, given, plan, device=device, counts=counts)
        took = time.perf_counter() - started
        if run:
            seconds.append(took)
            idle.append(1 - (time.process_time() - worked) / took)
            waits.append(sum(carry.waited_s for carry in getattr(plan.spread, "carries", ())))
    measured = {"seconds": seconds, "waited_s": waits, "idle": idle}
    return {key: statistics.median(values) for key, values in measured.items()}


def slept() -> list[dict[str, Any]]:
    """Idle shares of more ranks than there are cores, with layers that sleep, beside those of the order alone."""
    found = []
    for ranks, num_chunks, layers in SLEPT:
        calculated, measured = (f(num_chunks, ranks, layers) for f in (waiting_shares, slept_shares))
        sizes = {"ranks": ranks, "chunks": num_chunks, "layers": layers, "layer_s": LAYER_S}
        found.append({**sizes, "idle_by_order": round(max(calculated), 4), "idle_by_rank": measured})
    return found


def report(ranks: int, runs: int) -> dict[str, Any]:
    alone, together = measure(1, runs), measure(ranks, runs)
    num_chunks = -(-PAIRS * SIDE**2 // 4 // CHUNK_TOKENS)
    rows: dict[str, Any] = {}
    for name in alone:
        (one,) = alone[name]
        slowest = max(rank["seconds"] for rank in together[name])
        shares = [rank["waited_s"] / slowest for rank in together[name]]
        rows[name] = {
            "one_rank_s": round(one["seconds"], 3),
            "slowest_rank_s": round(slowest, 3),
            "speed_up": round(one["seconds"] / slowest, 2),
            "waiting_for_states_by_rank": [round(share, 4) for share in shares],
            "idle_by_rank": [round(max(0.0, rank["idle"]), 4) for rank in together[name]],
            "idle_alone": round(max(0.0, one["idle"]), 4),
        }
    rows["wavefront_idle_by_rank"] = [round(share, 4) for share in waiting_shares(num_chunks, ranks, LAYERS)]
    rows["slept"] = slept()
    sizes = {"ranks": ranks, "layers": LAYERS, "chunks": num_chunks, "chunk_tokens": CHUNK_TOKENS, "runs": runs}
    return {**sizes, "cores": os.cpu_count(), "torch": torch.__version__, **rows}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--slept", action="store_true", help="only what needs no idle cores")
    arguments = parser.parse_args()
    found = {"slept": slept()} if arguments.slept else report(arguments.ranks, arguments.runs)
    text = json.dumps(found, indent=2)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
