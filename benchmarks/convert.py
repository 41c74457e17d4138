"""Memory and time of `vamba model convert` on a Qwen2-VL as large as the 7B, made of pattern bytes.

    python benchmarks/convert.py [--full] [--layers 7] [--work DIR]

Writes a sharded bfloat16 checkpoint with the widths, embeddings and tower of Qwen2-VL-7B (28 layers with --full, 16.6 GB;
a quarter of them otherwise), converts it in a process of its own, compares some of the result with the source, reports
that process's peak memory and the seconds as one JSON line, and deletes everything. VmHWM is the greatest resident size,
files mapped into memory included; RssAnon, sampled every 5 ms, is what the process itself asked for.
"""  # noqa: E501

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import safe_open

from vamba.model.checkpoint_fit import expected_tensors, is_new
from vamba.model.config import ModelConfig
from vamba.model.inspection import inspect_directory
from vamba.model.shard_writer import ShardWriter
from vamba.model.tensor_files import INDEX_FILE, PIECE_BYTES

SHARD_BYTES = 4_000_000_000
FULL_LAYERS = 28


def write_source(directory: Path, num_layers: int) -> int:
    """A Qwen2-VL directory in the hub's flat format; its size in bytes."""
    config = replace(ModelConfig(), num_hidden_layers=num_layers)
    shapes = {name: shape for name, shape in expected_tensors(config).items() if not is_new(name)}
    pattern = torch.randn(PIECE_BYTES // 2, generator=torch.Generator().manual_seed(0)).mul_(0.02).to(torch.bfloat16)
    piece = memoryview(pattern.view(torch.uint8).numpy())
    with ShardWriter(directory, shapes, SHARD_BYTES) as writer:
        for name, shape in shapes.items():
            writer.add(name, torch.bfloat16, shape, pieces(piece, torch.Size(shape).numel() * 2))
    values = config.to_dict()
    for key in ("vision_mamba_mixer_config", "use_alpha_balancing", "distill_coeff", "architectures"):
        del values[key]
    (directory / "config.json").write_text(json.dumps({**values, "model_type": "qwen2_vl"}))
    return writer.total_bytes


def pieces(piece: memoryview, size: int) -> Iterator[memoryview]:
    for start in range(0, size, len(piece)):
        yield piece[: min(len(piece), size - start)]


def measure(command: list[str]) -> tuple[float, int, int]:
    """(seconds, greatest VmHWM, greatest RssAnon in kB) of a command; RuntimeError where it fails."""
    started, peaks = time.monotonic(), {"VmHWM": 0, "RssAnon": 0}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as child:
        while child.poll() is None:
            for line in Path(f"/proc/{child.pid}/status").read_text().splitlines():
                name, _, value = line.partition(":")
                if name in peaks:
                    peaks[name] = max(peaks[name], int(value.split()[0]))
            time.sleep(0.005)
    if child.returncode:
        raise RuntimeError(f"{command} ended with {child.returncode}")
    return time.monotonic() - started, peaks["VmHWM"], peaks["RssAnon"]


def check_result(source: Path, out: Path) -> None:
    """Some tensors of the result through the safetensors library, against the source."""
    copied = "model.layers.0.self_attn.q_proj.weight"
    mine, base = tensor(out, copied), tensor(source, copied)
    assert torch.equal(mine, base), f"{copied} differs"
    assert torch.equal(tensor(out, copied.replace("self_attn", "cross_attn")), base), "cross-attention is no copy"
    assert tensor(out, "model.layers.0.alpha").item() == 0.5


def tensor(directory: Path, name: str) -> torch.Tensor:
    file = json.loads((directory / INDEX_FILE).read_text())["weight_map"][name]
    with safe_open(directory / file, framework="pt") as opened:
        return opened.get_tensor(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=FULL_LAYERS // 4)
    parser.add_argument("--full", action="store_true", help=f"{FULL_LAYERS} layers: 39.3 GB of disk")
    parser.add_argument("--work", type=Path, help="a directory for the files; by default the system's temporary one")
    arguments = parser.parse_args()
    num_layers = FULL_LAYERS if arguments.full else arguments.layers
    work = Path(tempfile.mkdtemp(prefix="convert-", dir=arguments.work))
    try:
        (work / "qwen").mkdir()
        read_bytes = write_source(work / "qwen", num_layers)
        names = ["--from", str(work / "qwen"), "--out", str(work / "vamba")]
        seconds, resident_kb, anonymous_kb = measure(
            [sys.executable, "-m", "jobs", "--quiet", "model", "convert", *names]
        )
        check_result(work / "qwen", work / "vamba")
        found = inspect_directory(work / "vamba")
        assert not found.problems, found.problems
        row = {
            "layers": num_layers,
            "parameters": found.num_parameters,
            "read_gb": round(read_bytes / 1e9, 2),
            "written_gb": round(found.size_bytes / 1e9, 2),
            "shards": len(found.shards),
            "peak_resident_gb": round(resident_kb * 1024 / 1e9, 2),
            "peak_anonymous_gb": round(anonymous_kb * 1024 / 1e9, 2),
            "seconds": round(seconds, 1),
        }
        print(json.dumps(row))
    finally:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
