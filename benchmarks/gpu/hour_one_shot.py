"""The hybrid in one shot: all of a video through the tower, and then through each layer, with torch's own autograd.

Refused where a tensor of the pass would have 2^31 elements or more: what kernels do there is asked elsewhere
(`benchmarks.gpu.wrap`, of the scan).
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.gpu.hour_inputs import video_batch
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.hour_report import Row
from benchmarks.gpu.hour_step import HourStep
from benchmarks.gpu.hour_streamed import timed
from benchmarks.gpu.machine import Machine
from vamba.model.config import ModelConfig
from vamba.model.vamba import Vamba


def prefill_one_shot(machine: Machine, preset: Preset, model: Vamba, frames: int) -> Row:
    """A video and the text beside it, up to the logits of the last token."""

    @torch.no_grad()
    def run() -> Tensor:
        batch = video_batch(preset, frames, machine.device).to(machine.device)
        return model.head(model.hidden_states(batch)[-1:])

    return _measured(machine, preset, model.architecture, "prefill", frames, run)


def train_one_shot(machine: Machine, preset: Preset, model: Vamba, frames: int) -> Row:
    """Forward, backward and update, each layer recomputed in the backward pass."""
    step = HourStep(model, machine.device, machine.low_precision)

    def run() -> Tensor:
        result = step.run(video_batch(preset, frames, machine.device))
        return torch.tensor([result.loss, result.grad_norm])

    try:
        return _measured(machine, preset, model.architecture, "train step", frames, run)
    finally:
        step.close()


def largest_tensor(config: ModelConfig, tokens: int) -> int:
    """Elements of the largest one: the mixers' first projection, or the tower's MLP."""
    mixer, vision = config.mixer, config.vision
    projected = mixer.d_inner + mixer.conv_dim + mixer.num_heads
    hidden = int(vision.embed_dim * vision.mlp_ratio) * vision.spatial_merge_size**2
    return tokens * max(projected, hidden)


def _measured(machine: Machine, preset: Preset, config: ModelConfig, passes: str, frames: int, run) -> Row:
    tokens = preset.tokens(frames)
    row = {"model": "one shot", "passes": passes, "frames": frames, "tokens": tokens}
    elements = largest_tensor(config, tokens)
    if elements >= 2**31:
        return Row(**row, how=f"refused: a tensor of {elements:,} elements, 2^31 or more")
    try:
        result, cost = timed(machine, run)
    except torch.OutOfMemoryError as error:
        return Row(**row, how="does not fit: " + str(error).split(". ")[0])
    if not bool(torch.isfinite(result).all()):
        return Row(**row, problem="the result is not finite")
    return Row(**row, seconds=cost.seconds, peak_bytes=cost.peak_bytes, reserved_bytes=cost.reserved_bytes)
