"""With keys and values on disk, memory does not grow with the video: measured on a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.architecture.sources import ROOT

PROGRAM = """
import sys, torch
from tests.vamba.model.samples import random_model
from vamba.streaming.encoder import VideoEncoder
from vamba.streaming.placement import Placement

def anonymous_bytes():
    for line in open("/proc/self/status"):
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

model = random_model(num_key_value_heads=4).float()
piece = torch.randint(0, 255, (4 * 30 * 40, 1176), dtype=torch.uint8)

def peak(pairs):
    encoder = VideoEncoder(model, Placement(kv="disk", order=sys.argv[1]), chunk_tokens=1024, block_tokens=2048)
    most = 0
    for _ in range(pairs // 4):
        encoder.add(piece, (4, 30, 40))
        most = max(most, anonymous_bytes())
    video = encoder.finish().open_pass(3)
    for layer in range(3):
        video.read(layer, torch.randn(3, 4, 8))
        most = max(most, anonymous_bytes())
    return most

peak(16)
print(peak(16), peak(128))
"""


@pytest.mark.parametrize("order", ["chunk-major", "layer-major"])
def test_eight_times_the_video_takes_the_same_memory(order: str) -> None:
    """4,800 and 38,400 video tokens; of these, keys and values are 29 MB, the stream twice 10 MB, pixels 181 MB."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, order], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    short, long = map(int, done.stdout.split())
    assert long < 1.05 * short, f"{short / 2**20:.0f} MiB, then {long / 2**20:.0f} MiB"
