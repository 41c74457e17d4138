"""CPU of turning decoded frames into patches: float32 on the host against uint8 for the device; torch against Pillow.

    python benchmarks/processing.py [--size 640x360] [--frames 64] [--runs 7]

`float32_patches` resizes with Pillow, lays out and normalises on the host, in numpy, and copies four bytes per value to
the device: what this repository did first. `uint8_patches` is `frames_to_patches`, which leaves normalising to the
tower. The others are parts of it: the same resize by Pillow and by integer sums in torch, and the tower's normalising.
One thread. All run in turn, `--runs` times; printed are medians in ms of CPU per frame, and the median of each run's
ratio to `float32_patches`. With a GPU, the resize there is timed too, the copy of the frames included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from vamba.data.frames import FrameProcessing, frames_to_patches, output_size
from vamba.data.normalise import IMAGE_MEAN, IMAGE_STD, normalise_patches
from vamba.data.resize import resize_pillow, resize_torch

CONFIG = FrameProcessing()
BASELINE = "float32_patches"


def float32_patches(frames: np.ndarray) -> np.ndarray:
    """Normalised patches as the host made them."""
    width, height = output_size(frames.shape[2], frames.shape[1], CONFIG)
    bicubic = Image.Resampling.BICUBIC
    resized = np.stack([np.asarray(Image.fromarray(frame).resize((width, height), bicubic)) for frame in frames])
    cells = resized.reshape(len(frames) // 2, 2, height // 28, 2, 14, width // 28, 2, 14, 3)
    rows = np.ascontiguousarray(cells.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)).reshape(-1, 3, 2 * 14 * 14)
    mean, std = np.array(IMAGE_MEAN, np.float32), np.array(IMAGE_STD, np.float32)
    patches = np.multiply(rows, (1.0 / (255.0 * std))[:, None], dtype=np.float32)
    patches -= (mean / std)[:, None]
    return patches.reshape(len(rows), -1)


def measure(work: dict[str, Callable[[], object]], num_frames: int, runs: int) -> dict[str, list[float]]:
    """ms of CPU per frame of every piece of work, run by run; the first round is not counted."""
    times: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, do in work.items():
            started = time.process_time()
            do()
            if run:
                times[name].append((time.process_time() - started) * 1e3 / num_frames)
    return times


def gpu_ms(frames: np.ndarray, size: tuple[int, int], runs: int) -> float:
    """Median wall time per frame of copying the frames to the GPU and resizing them there."""
    times = []
    for _ in range(runs + 1):
        torch.cuda.synchronize()
        started = time.perf_counter()
        resize_torch(torch.from_numpy(frames).cuda(), size)
        torch.cuda.synchronize()
        times.append((time.perf_counter() - started) * 1e3 / len(frames))
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="640x360")
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--runs", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    width, height = map(int, arguments.size.split("x"))
    num_frames = arguments.frames // 2 * 2
    frames = np.random.default_rng(0).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)
    tensor, size = torch.from_numpy(frames), output_size(width, height, CONFIG)
    patches = torch.from_numpy(frames_to_patches(frames, CONFIG)[0])
    assert np.array_equal(float32_patches(frames), normalise_patches(patches).numpy()), "the two make different patches"
    work: dict[str, Callable[[], object]] = {
        BASELINE: lambda: float32_patches(frames),
        "uint8_patches": lambda: frames_to_patches(frames, CONFIG),
        "resize_by_pillow": lambda: resize_pillow(frames, size),
        "resize_by_torch": lambda: resize_torch(tensor, size),
        "normalise": lambda: normalise_patches(patches),
    }
    times = measure(work, num_frames, arguments.runs)
    for name, values in times.items():
        ratios = [value / base for value, base in zip(values, times[BASELINE], strict=True)]
        row = {"what": name, "cpu_ms_per_frame": round(statistics.median(values), 2)}
        print(json.dumps({**row, "ratio": round(statistics.median(ratios), 2), "runs": arguments.runs}), flush=True)
    if torch.cuda.is_available():
        row = {"what": "copy_and_resize_on_gpu", "wall_ms_per_frame": round(gpu_ms(frames, size, arguments.runs), 3)}
        print(json.dumps(row))


if __name__ == "__main__":
    main()
