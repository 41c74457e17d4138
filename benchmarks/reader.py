"""CPU of the training reader, part by part, beside a raw read, the bare JPEG decoder, and webdataset with PIL.

    python -m benchmarks.reader [--samples 8] [--frames 120] [--runs 3] [--out FILE.json]

Shards are written by the packer of the ingest: `--samples` clips of `--frames` frames of 640x360, JPEG at quality 85,
pictures with the spectrum of photographs and edges. All pieces of work run in turn, `--runs` times, over the same
bytes, which are in the page cache; printed are medians in CPU seconds of this process and its children, all threads
together.

* raw_read: the shards from end to end into one buffer of 1 MiB, which stays in the processor's cache.
* raw_samples: one read for each sample, in the plan's order, each into memory of its own.
* reader_before_decode: `PackReader` without decoding: reads, tar members, JSON, checks.
* jpeg_alone: libjpeg-turbo on bytes that are in memory, into one array that is used again.
* reader_for_device: `PackReader`, frames as they go to a GPU, which resizes them.
* reader_on_host: the same with frames resized on the host, as for training on a CPU.
* webdataset_pil: `webdataset` and PIL to arrays of pixels in a torch DataLoader without workers; no text, no packing.

Then whole passes by the clock: samples a second with 0, 1 and 2 threads that decode, and webdataset with 2 workers; and
how long a trainer waits that computes for twice the time a step takes to decode.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from pipelines.ingest.pack import TarWriter
from pipelines.manifest_io import SHARDS_PREFIX
from pipelines.shard_ranges import ShardRanges
from pipelines.storage import LocalStorage
from vamba.data.batch import EncodedSample
from vamba.data.encode import SampleEncoder, parse_sample
from vamba.data.memory_pool import MemoryPool
from vamba.data.plan import DataPlan, PlanConfig
from vamba.data.reader import PackReader
from vamba.data.reader_config import ReaderConfig, plan_items
from vamba.data.sample import Conversation, Sample, Turn
from vamba.data.sample_table import Placed, PlacedSample
from vamba.data.text import load_tokenizer

WIDTH, HEIGHT, QUALITY = 640, 360, 85
NUM_SHARDS = 2
PASSES = 8  # in one measurement of reading alone, which takes milliseconds
CONFIG = ReaderConfig(max_frames=10_000, cache_bytes=0)


def picture(rng: np.random.Generator) -> np.ndarray:
    """uint8[H, W, 3]: amplitudes fall with the 1.4th power of frequency; flat shapes add edges."""
    frequency = np.hypot(np.fft.rfftfreq(WIDTH)[None, :], np.fft.fftfreq(HEIGHT)[:, None] * HEIGHT / WIDTH)
    frequency[0, 0] = 1
    shape = (*frequency.shape, 3)
    spectrum = (rng.normal(size=shape) + 1j * rng.normal(size=shape)) / frequency[..., None] ** 1.4
    pixels = np.fft.irfft2(spectrum, s=(HEIGHT, WIDTH), axes=(0, 1))
    pixels = (0.35 * pixels + 0.65 * pixels.mean(2, keepdims=True)) / pixels.std() * 55 + 120
    for _ in range(12):
        x, y, w, h = (int(rng.integers(0, limit)) for limit in (WIDTH, HEIGHT, 160, 120))
        pixels[y : y + h, x : x + w] = 0.5 * pixels[y : y + h, x : x + w] + rng.uniform(0, 128, 3)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def write_shards(folder: Path, num_samples: int, num_frames: int) -> list[PlacedSample]:
    """Clips that pan over a picture each."""
    rng = np.random.default_rng(0)
    rows = []
    for shard in range(NUM_SHARDS):
        name = f"shard-{shard:06d}.tar"
        with (folder / name).open("wb") as file:
            writer = TarWriter(file)
            for number in range(shard, num_samples, NUM_SHARDS):
                offset = writer.size_bytes
                for member, data in _sample(number, num_frames, picture(rng)).to_members():
                    writer.add(member, data)
                rows.append(
                    PlacedSample(
                        id=f"clip-{number:04d}", shard=name, offset_bytes=offset,
                        size_bytes=writer.size_bytes - offset, media="video", num_frames=num_frames, width=WIDTH,
                        height=HEIGHT, num_conversations=2,
                    )
                )  # fmt: skip
            writer.finish()
    return rows


def _sample(number: int, num_frames: int, background: np.ndarray) -> Sample:
    shots = (np.roll(background, (3 * i, 7 * i), (0, 1)) for i in range(num_frames))
    turns = (Turn(speaker="human", value="<video>\nWhat happens?"), Turn(speaker="gpt", value="The camera pans. " * 8))
    return Sample(
        id=f"clip-{number:04d}", media="video", split="train", source_uri=f"{number}.mp4", width=WIDTH, height=HEIGHT,
        source_digest="sha256:" + hashlib.sha256(str(number).encode()).hexdigest(), duration_ns=num_frames * 10**9,
        timestamps_ns=tuple(i * 10**9 for i in range(num_frames)),
        conversations=(Conversation(id="a", turns=turns), Conversation(id="b", turns=turns)),
        frames=tuple(
            simplejpeg.encode_jpeg(np.ascontiguousarray(shot), quality=QUALITY, colorsubsampling="420")
            for shot in shots
        ),
    )  # fmt: skip


class ParsingEncoder(SampleEncoder):
    """Everything up to the decoder: members found, JSON read, sample checked."""

    def __call__(self, content: bytes | memoryview, memory: MemoryPool | None = None) -> EncodedSample:
        return EncodedSample(id=parse_sample(content).id, patches=None, grid_thws=(), texts=self.placeholder().texts)

    def num_bytes(self, row: Placed) -> int:
        return 0


@dataclass
class Bench:
    folder: Path
    rows: list[PlacedSample]

    def __post_init__(self) -> None:
        tokens = plan_items(self.rows, CONFIG).costs
        self.plan = DataPlan(
            plan_items(self.rows, CONFIG), PlanConfig(tokens_per_pack=2 * int(tokens.max()), packs_per_step=1), seed=0
        )
        tokenizer = load_tokenizer(str(files("vamba") / "assets" / "tiny_tokenizer"))
        self.parse = ParsingEncoder(tokenizer, CONFIG)
        self.for_device = SampleEncoder(tokenizer, CONFIG, device="cuda")
        self.on_host = SampleEncoder(tokenizer, CONFIG, device="cpu")
        self.read_range = ShardRanges(LocalStorage(self.folder.parent))
        self.jpegs = [
            bytes(frame)
            for row in self.rows
            for frame in parse_sample(self.read_range(row.shard, row.offset_bytes, row.size_bytes)).frames
        ]
        self.frame = np.empty((HEIGHT, WIDTH, 3), np.uint8)

    def raw_read(self, num_passes: int) -> None:
        buffer = memoryview(bytearray(1 << 20))
        for shard in num_passes * sorted({row.shard for row in self.rows}):
            with open(self.folder / shard, "rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass

    def raw_samples(self, num_passes: int) -> None:
        for step in num_passes * list(self.plan.steps(0)):
            items = [item for pack in step.packs for item in pack.items]
            _ = [self.read_range(r.shard, r.offset_bytes, r.size_bytes) for r in (self.rows[item] for item in items)]

    def jpeg_alone(self) -> None:
        for data in self.jpegs:
            simplejpeg.decode_jpeg(data, buffer=self.frame)

    def reader(self, encode: SampleEncoder, decode_workers: int = 1) -> PackReader:
        config = replace(CONFIG, decode_workers=decode_workers)
        reader = PackReader(self.plan, self.rows, self.read_range, encode, state=self.plan.start(), config=config)
        settle(reader)
        return reader

    def read_epochs(self, reader: PackReader, num_epochs: int = 1, train_s: float = 0.0) -> float:
        """Take the steps of epochs, and wait until the reader is as far ahead as before. Seconds waited for steps."""
        waited_s = reader.stats.wait_s
        for _ in range(num_epochs * len(self.plan.steps(0))):
            next(reader)
            time.sleep(train_s)
        waited_s = reader.stats.wait_s - waited_s
        settle(reader)
        return waited_s

    def webdataset_pil(self, num_workers: int = 0) -> None:
        import torch
        import webdataset as wds
        from PIL import Image

        def pixels(sample: dict[str, Any]) -> list[np.ndarray]:
            names = sorted(name for name in sample if name.endswith(".jpg"))
            return [np.asarray(Image.open(io.BytesIO(sample[name])).convert("RGB")) for name in names]

        shards = [str(path) for path in sorted(self.folder.glob("*.tar"))]
        data = wds.WebDataset(shards, shardshuffle=False).map(pixels)
        for frames in torch.utils.data.DataLoader(data, batch_size=None, num_workers=num_workers):
            assert len(frames)


def settle(reader: PackReader) -> None:
    """Wait until the reader has done what it may do ahead: nothing of it has changed for 0.3 s."""
    still, before = 0, (-1, -1)
    while still < 15:
        time.sleep(0.02)
        now = (reader.stats.num_steps_ahead, reader.stats.bytes_ahead)
        still, before = (still + 1 if now == before else 0), now


def cpu_s() -> float:
    """CPU seconds of this process and the children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def in_turn(work: dict[str, Callable[[], object]], runs: int) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """(CPU seconds, wall seconds) of each piece of work, run by run; the first round is not counted."""
    cpu: dict[str, list[float]] = {name: [] for name in work}
    wall: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, do in work.items():
            before, started = cpu_s(), time.perf_counter()
            do()
            if run:
                cpu[name].append(cpu_s() - before)
                wall[name].append(time.perf_counter() - started)
    return cpu, wall


def measure(bench: Bench, runs: int) -> dict[str, object]:
    num_frames, size = len(bench.jpegs), sum(row.size_bytes for row in bench.rows)
    with bench.reader(bench.parse) as parse:
        work: dict[str, Callable[[], object]] = {
            "raw_read": partial(bench.raw_read, PASSES),
            "raw_samples": partial(bench.raw_samples, PASSES),
            "reader_before_decode": lambda: bench.read_epochs(parse, PASSES),
        }
        reads, _ = in_turn(work, 3 * runs)
    # On this thread, so that nothing runs on into the next measurement.
    with bench.reader(bench.for_device, 0) as device, bench.reader(bench.on_host, 0) as host:
        decodes, _ = in_turn(
            {
                "jpeg_alone": bench.jpeg_alone,
                "reader_for_device": partial(bench.read_epochs, device),
                "reader_on_host": partial(bench.read_epochs, host),
                "webdataset_pil": bench.webdataset_pil,
            },
            runs,
        )
    return {
        "bytes_per_frame": round(size / num_frames),
        "megabytes_per_cpu_s": {name: round(PASSES * size / 1e6 / statistics.median(s)) for name, s in reads.items()},
        "share_of_raw_read": _ratio(reads["raw_read"], reads["reader_before_decode"]),
        "share_of_raw_samples": _ratio(reads["raw_samples"], reads["reader_before_decode"]),
        "cpu_ms_per_frame": {n: round(statistics.median(s) * 1e3 / num_frames, 3) for n, s in decodes.items()},
        "ratio_to_jpeg_alone": {n: _ratio(s, decodes["jpeg_alone"]) for n, s in decodes.items()},
        "ratio_to_webdataset": {n: _ratio(s, decodes["webdataset_pil"]) for n, s in decodes.items()},
    }


def by_the_clock(bench: Bench, runs: int) -> dict[str, object]:
    with ExitStack() as stack:
        readers = {
            f"{threads} threads": stack.enter_context(bench.reader(bench.for_device, threads)) for threads in (0, 1, 2)
        }
        work: dict[str, Callable[[], object]] = {n: partial(bench.read_epochs, r) for n, r in readers.items()}
        _, wall = in_turn({**work, "webdataset, 2 workers": lambda: bench.webdataset_pil(2)}, runs)
        num_steps = len(bench.plan.steps(0))
        train_s = 2 * statistics.median(wall["0 threads"]) / num_steps
        waits = {name: bench.read_epochs(reader, train_s=train_s) for name, reader in readers.items()}
    return {
        "samples_per_s": {name: round(len(bench.rows) / statistics.median(s), 1) for name, s in wall.items()},
        "wait_share_of_step": {name: round(s / num_steps / train_s, 3) for name, s in waits.items()},
    }


def _ratio(values: list[float], base: list[float]) -> float:
    return round(statistics.median(a / b for a, b in zip(values, base, strict=True)), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--frames", type=int, default=120)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory, SHARDS_PREFIX)
        folder.mkdir()
        bench = Bench(folder, write_shards(folder, arguments.samples, arguments.frames))
        result = {
            "machine": f"{platform.machine()}, {os.cpu_count()} threads",
            "samples": arguments.samples, "frames_per_sample": arguments.frames, "runs": arguments.runs,
            **measure(bench, arguments.runs), **by_the_clock(bench, arguments.runs),
        }  # fmt: skip
    print(json.dumps(result, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
