"""What the cluster works on: an hour of generated videos in S3, and a tiny model that answers questions about them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.cluster.client import ROOT

# Long enough that all faults strike while it runs, and short enough to be trained twice. A faster machine wants more.
NUM_STEPS = int(os.environ.get("STEPS") or 480)
CHECKPOINT_EVERY = 20

_SUITE = """\
seed: 0
width: 256
height: 144
fps: 5
num_shapes: 12
num_textures: 100
min_scene_s: 1
max_scene_s: 5
shuffle_options: false
groups:
  - {name: clip, split: train, num_videos: 100, min_s: 24, max_s: 40, min_cards: 3, max_cards: 5, min_blanks: 0, max_blanks: 1}
"""  # noqa: E501


def make_videos(folder: Path) -> None:
    """100 clips and annotations.jsonl."""
    folder.mkdir(parents=True)
    suite = folder.with_suffix(".yaml")
    suite.write_text(_SUITE)
    command = [sys.executable, "-m", "jobs", "synthesize", str(suite), "--out", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr


def ingest_words(videos: str, out: str) -> list[str]:
    """Arguments of `vamba ingest`: several shards, in several segments each."""
    settings = ["target_shard_bytes=4000000", "segment_cost_s=0.25", "frames.long_edge=112", "frames.short_edge=112"]
    words = [f"{videos}/", "--conversations", f"{videos}/annotations.jsonl", "--out", out]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


def train_words(data: str, name: str, mirror: str) -> list[str]:
    """Arguments of `vamba train`: two workers; samples read from S3 every time."""
    settings = [
        f"train.num_steps={NUM_STEPS}",
        f"train.checkpoint_every_steps={CHECKPOINT_EVERY}",
        "train.optimizer.learning_rate=2e-4",
        "plan.packs_per_step=4",
        "reader.cache_bytes=0",
        "workers.look_for_room_every_s=5",
        f"mirror={mirror}",
    ]
    words = ["tiny_instruct", "--data", data, "--name", name]
    return [*words, *(word for setting in settings for word in ("--set", setting))]
