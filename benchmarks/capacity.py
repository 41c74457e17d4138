"""The cost and capacity table of docs/scale.md: hours of video to cores, GPU hours, storage and money.

    python -m benchmarks.capacity        prints the table; tests/docs/test_capacity.py compares the page with it

Nothing is measured here. Each row is a measured figure (from benchmarks/results), a count of the model's operations
(vamba/model/flops.py), or one of the assumptions below, times the hours.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

from vamba.data.frames import recorded_tokens
from vamba.model.flops import PackShape, StepWork
from vamba.model.presets import PRESETS

RESULTS = Path(__file__).parent / "results"
HOURS = (1, 1_000, 100_000, 1_000_000)

# Assumed. The first two were measured by nobody with this code: no figure of a GPU cluster exists yet.
GPU_PEAK_FLOPS = 989e12  # H100 SXM, bfloat16, dense: the maker's figure
GPU_UTILISATION = 0.35  # published for dense 8B models on H100: 0.33 to 0.39 (torchtitan)
USD_A_CORE_HOUR, USD_A_GPU_HOUR, USD_A_GB_MONTH = 0.04, 2.50, 0.023
TEXT_TOKENS = 20 * 128  # a film has 20 conversations of 128 tokens, half of them answers
RECIPE_VIDEO_TOKENS = 30_000  # what `instruct` shows of a video: 120,000 patches, merged by four
CHECKPOINT_BYTES_A_PARAMETER = 12  # float32: the parameter and two moments
TRAINED_PARAMETERS = 10_133_656_284  # by `instruct`, as its recipe expects


def result(name: str) -> dict[str, Any]:
    """A file of benchmarks/results."""
    return dict(json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")))


def ingest_core_hours() -> float:
    """Measured: CPU seconds of the job on one core for an hour of 640x360, JPEG, a frame a second."""
    return float(result("ingest-job-cpu")["cpu_s"]["job-1"]) / 3600


def jpeg_gb() -> float:
    """Simulated: bytes of an hour's shards, planned by the real code."""
    return float(result("scale-cpu")["plan"]["shard_bytes"]) / 1e9


def h264_gb() -> float:
    """Measured: the mean over the films of benchmarks/store.py at the default crf 23."""
    films = result("store-cpu")["films"].values()
    sizes = [s["mb_per_hour_at_1_fps"] for film in films for s in film["settings"] if s.get("crf") == 23]
    return float(sum(sizes) / len(sizes)) / 1000


def film_tokens() -> int:
    """By the rule: video tokens of an hour at a frame a second in 640x360."""
    return recorded_tokens(3600, 640, 360)


@functools.cache
def gpu_hours(video_tokens: int, *, training: bool) -> float:
    """Counted: operations for one film, at the assumed share of the assumed peak. training: else it is only read."""
    tokens_of_a_pair = film_tokens() // 1800
    shape = PackShape(
        text_tokens=TEXT_TOKENS,
        text_pairs=TEXT_TOKENS * 128,
        scored_tokens=TEXT_TOKENS // 2,
        video_tokens=video_tokens,
        cross_pairs=TEXT_TOKENS * video_tokens,
        patches=4 * video_tokens,
        patch_pairs=4 * video_tokens * 4 * tokens_of_a_pair,
    )
    work = StepWork(PRESETS["qwen2_vl_7b"], _trained_names() if training else ())
    return work.flops(shape) / (GPU_PEAK_FLOPS * GPU_UTILISATION) / 3600


@functools.cache
def _trained_names() -> tuple[str, ...]:
    """What `instruct` trains; the model is built without memory."""
    import torch

    from vamba.model.vamba import Vamba

    with torch.device("meta"):
        model = Vamba(PRESETS["qwen2_vl_7b"])
    return tuple(name for name, _ in model.named_parameters() if name.startswith(("visual.merger.", "model.")))


def rows() -> list[tuple[str, str, float, str]]:
    """(what, unit, value for an hour of video, where it comes from)."""
    recipe = gpu_hours(RECIPE_VIDEO_TOKENS, training=True)
    whole = gpu_hours(film_tokens(), training=True)
    read = gpu_hours(film_tokens(), training=False)
    whole_name = f"train one epoch on every frame ({film_tokens():,} tokens)"
    counted = "counted operations / (peak x utilisation)"
    return [
        ("ingest", "core hours", ingest_core_hours(), "measured: `benchmarks/results/ingest-job-cpu.json`"),
        ("ingest within a day", "cores", ingest_core_hours() / 24, "the row above / 24"),
        ("shards, JPEG", "GB", jpeg_gb(), "simulated: `scale-cpu.json`"),
        ("shards, H.264", "GB", h264_gb(), "measured: mean of the films in `store-cpu.json`, crf 23"),
        ("train one epoch, `instruct` (30,000 video tokens a film)", "GPU hours", recipe, counted),
        (whole_name, "GPU hours", whole, "the same"),
        ("read every frame and answer", "GPU hours", read, "the same, forward only"),
        ("ingest", "USD", ingest_core_hours() * USD_A_CORE_HOUR, "core hours x 0.04, assumed"),
        ("keep the JPEG shards", "USD a month", jpeg_gb() * USD_A_GB_MONTH, "GB x 0.023, assumed"),
        ("train one epoch, `instruct`", "USD", recipe * USD_A_GPU_HOUR, "GPU hours x 2.50, assumed"),
    ]


def table() -> str:
    """Markdown."""
    lines = ["| what | unit | " + " | ".join(f"{hours:,} h" for hours in HOURS) + " | from |"]
    lines.append("|---|---|" + "---:|" * len(HOURS) + "---|")
    for what, unit, value, source in rows():
        lines.append(f"| {what} | {unit} | " + " | ".join(_figure(hours * value) for hours in HOURS) + f" | {source} |")
    checkpoint = _figure(TRAINED_PARAMETERS * CHECKPOINT_BYTES_A_PARAMETER / 1e9)
    figures = " | ".join([checkpoint] * len(HOURS))
    lines.append(
        f"| a checkpoint of `instruct` | GB | {figures} | 10,133,656,284 parameters x 12 bytes, at any hours |"
    )
    return "\n".join(lines)


def _figure(value: float) -> str:
    """Two significant digits, and no digits behind the point from ten on."""
    if value >= 10:
        digits = len(str(int(value))) - 2
        return f"{round(value, -digits):,.0f}"
    return f"{value:.2g}"


if __name__ == "__main__":
    print(table())
