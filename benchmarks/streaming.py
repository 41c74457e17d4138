"""Peak memory and CPU time of a training pass against the length of its video: streamed, by layer, and with everything kept.

    python -m benchmarks.streaming [--out benchmarks/results/streaming-cpu.json] [--plot docs/images/streaming.png]
                                   [--tokens 4096 16384 65536] [--ways none layer device disk] [--threads 1]

    none, layer     `parallel.activation`: one pass over the whole video
    device, disk    `parallel.activation: streamed`, keys and values, states and tower tokens in memory, or in files

A small model on this machine's CPU, float32, stage 1 (the tower is frozen). Every length and way runs in a process of its
own: `anonymous` is the highest resident memory that is not a file's, above what was there with model and pixels loaded, and
after a pass over a video of two chunks that warms up libraries. The C library is told to give back what is freed
(`MEASURED`), so that this is what is used, not what once was.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vamba.data.batch import Batch, EncodedSample, collate
from vamba.data.text import EncodedText
from vamba.model.config import MixerConfig, ModelConfig, VisionConfig
from vamba.model.init import init_weights_
from vamba.model.vamba import Vamba
from vamba.streaming.store import DeviceStore, TensorStore
from vamba.streaming.store_disk import DiskStore
from vamba.streaming.training import StreamingPlan, forward_backward

MEASURED = {"MALLOC_MMAP_THRESHOLD_": "65536"}
CHUNK_TOKENS = 2048
TOKENS_PER_PAIR = 64
TRAINED = r".*(cross_attn|vision_mixer|alpha).*"
CPU = torch.device("cpu")
MODEL = ModelConfig(
    vocab_size=512,
    hidden_size=128,
    intermediate_size=256,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    mrope_section=(4, 6, 6),
    vision=VisionConfig(depth=1, embed_dim=32, num_heads=2, hidden_size=128),
    mixer=MixerConfig(enable=True, hidden_dim=128, d_state=16, headdim=32, chunk_size=128),
)


SMALL = replace(
    MODEL,
    hidden_size=32,
    num_hidden_layers=2,
    mrope_section=(1, 1, 2),
    vision=replace(MODEL.vision, embed_dim=8, hidden_size=32),
    mixer=replace(MODEL.mixer, hidden_dim=32),
)
"""For tests."""


def batch_of(num_tokens: int) -> Batch:
    """One video and one question of 256 tokens."""
    rng = np.random.default_rng(0)
    pairs = num_tokens // TOKENS_PER_PAIR
    patches = rng.integers(0, 256, (num_tokens * 4, 1176), np.uint8)
    ids = rng.integers(0, 512, 256)
    text = EncodedText(input_ids=ids, labels=np.where(np.arange(256) >= 128, ids, -100))
    return collate([EncodedSample(id="video", patches=patches, grid_thws=((pairs, 16, 16),), texts=(text,))])


def train_pass(model: Vamba, batch: Batch, way: str) -> None:
    """Forward and backward once; gradients are added."""
    if way in ("none", "layer"):
        model.set_activation_checkpointing(way == "layer")
        model.loss(batch)[0].backward()
        return
    model.set_activation_checkpointing(True)

    def open_store() -> TensorStore:
        return DiskStore(CPU) if way == "disk" else DeviceStore()

    plan = StreamingPlan(above_tokens=0, chunk_tokens=CHUNK_TOKENS, open_store=open_store)
    forward_backward(model, batch, plan, device=CPU)


def measure(way: str, num_tokens: int, config: ModelConfig = MODEL) -> dict[str, Any]:
    """CPU seconds and memory of one pass."""
    model = Vamba(config, device="cpu")
    init_weights_(model, seed=0)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(re.fullmatch(TRAINED, name) is not None)
    model.train()
    batch = batch_of(num_tokens)
    train_pass(model, batch_of(2 * CHUNK_TOKENS), way)
    with Peak() as peak:
        started = time.process_time()
        train_pass(model, batch, way)
        seconds = time.process_time() - started
    return {
        "way": way,
        "video_tokens": num_tokens,
        "anonymous_mb": round(peak.above_mb, 1),
        "base_mb": round(peak.base_mb, 1),
        "cpu_seconds": round(seconds, 2),
        "cpu_us_per_token": round(1e6 * seconds / num_tokens, 1),
    }


class Peak(threading.Thread):
    """The highest anonymous memory of this process while it is open, above that at the begin."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.base_mb = self._highest = self._read()

    @property
    def above_mb(self) -> float:
        return self._highest - self.base_mb

    def __enter__(self) -> Peak:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self.join()

    def run(self) -> None:
        while not self._done.wait(0.002):
            self._highest = max(self._highest, self._read())

    @staticmethod
    def _read() -> float:
        status = Path("/proc/self/status").read_text(encoding="ascii")
        found = re.search(r"RssAnon:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024


def plot(results: list[dict[str, Any]], path: str) -> None:
    """Memory and time per token against the length, one line a way."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (memory, speed) = pyplot.subplots(1, 2, figsize=(10, 3.8))
    for way in dict.fromkeys(result["way"] for result in results):
        of_way = [result for result in results if result["way"] == way]
        tokens = [result["video_tokens"] for result in of_way]
        label = way if way in ("none", "layer") else f"streamed, {way}"
        memory.loglog(tokens, [result["anonymous_mb"] for result in of_way], "o-", base=2, label=label)
        speed.semilogx(tokens, [result["cpu_us_per_token"] for result in of_way], "o-", base=2)
    memory.set(title="peak memory above model and pixels", xlabel="video tokens", ylabel="MB")
    speed.set(
        title="forward and backward", xlabel="video tokens", ylabel="CPU microseconds per video token", ylim=(0, None)
    )
    memory.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", default="benchmarks/results/streaming-cpu.json")
    parser.add_argument("--plot", default="")
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384, 65536])
    parser.add_argument("--ways", nargs="+", default=["none", "layer", "device", "disk"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--one", nargs=2, metavar=("WAY", "TOKENS"), help="measure in this process, and print")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one:
        print(json.dumps(measure(arguments.one[0], int(arguments.one[1]))))
        return
    results = []
    for way in arguments.ways:
        for tokens in arguments.tokens:
            command = [sys.executable, "-m", "benchmarks.streaming", "--threads", str(arguments.threads)]
            done = subprocess.run(
                [*command, "--one", way, str(tokens)],
                env={**os.environ, **MEASURED},
                capture_output=True,
                text=True,
                check=True,
            )
            results.append(json.loads(done.stdout.splitlines()[-1]))
            print(results[-1], flush=True)
    environment = {"machine": platform.machine(), "torch": torch.__version__, "threads": arguments.threads}
    report = {"command": sys.argv, "environment": environment, "chunk_tokens": CHUNK_TOKENS, "results": results}
    Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(results, arguments.plot)


if __name__ == "__main__":
    main()
