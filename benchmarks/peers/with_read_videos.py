"""`ray.data.read_videos(fps=1)`, on a Ray that is up; what it gives is counted, but not kept."""

from __future__ import annotations

import logging
import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
sys.path[:] = [os.path.abspath(path) for path in sys.path]
import ray  # noqa: E402
from measured import BOX, NUM_BITS, number_of, report  # noqa: E402

ray.init(address="local", include_dashboard=False, logging_level=logging.ERROR, log_to_driver=False)
ray.data.DataContext.get_current().enable_progress_bars = False


def corner(batch: dict) -> dict:
    return {"corner": batch["frame"][:, :BOX, : BOX * NUM_BITS], "frame_index": batch["frame_index"]}


def work() -> list:
    frames = ray.data.read_videos([sys.argv[1]], fps=1).map_batches(corner, batch_size=16)
    rows = sorted(frames.iter_rows(), key=lambda row: row["frame_index"])
    return [row["corner"] for row in rows]


report(work, lambda corners: map(number_of, corners))
ray.shutdown()
