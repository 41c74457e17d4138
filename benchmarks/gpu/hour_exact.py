"""The streamed video side against one shot, few layers of full width: loss, logits and all gradients.

    weights of low precision ─┬─ in float32:        one shot ── the reference ──┬── streamed: equal but for rounding
                              └─ in low precision:  one shot ── its own error ──┴── streamed: no farther from it

Trained are the first stage's parameters and the tower's merger, so that gradients go all the way down.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.checks import TOLERANCE, exact_float32
from benchmarks.gpu.hour_inputs import pieces, video_batch
from benchmarks.gpu.hour_model import backends_of, random_model
from benchmarks.gpu.hour_presets import Preset
from benchmarks.gpu.machine import Machine, one_configuration
from vamba.model.init import NEW_PARTS
from vamba.model.vamba import Vamba
from vamba.streaming.encoder import VideoEncoder
from vamba.streaming.pixels import without_pixels
from vamba.streaming.placement import Placement
from vamba.streaming.training import StreamingPlan, forward_backward
from vamba.train.trainable import select_trainable

Outcome = dict[str, Tensor]
"""Tensors by name: `logits`, `loss`, and gradients."""


def run_exact(machine: Machine, preset: Preset) -> Iterator[dict[str, Any]]:
    """One row a precision."""
    backends = backends_of(machine)
    low = random_model(preset.exact_model(), machine, machine.low_precision, backends)
    select_trainable(low, [f".*({NEW_PARTS}).*", r"visual\.merger\..*"])
    tuned = one_configuration() if backends.scan == "mamba_ssm" else None
    with exact_float32():
        if tuned is not None:
            tuned.__enter__()
        try:
            wide = copy.deepcopy(low).float()
            reference = _one_shot(wide, preset, machine)
            yield _row("float32", reference, _streamed(wide, preset, machine), None)
            del wide
            name = str(machine.low_precision).removeprefix("torch.")
            yield _row(name, reference, _streamed(low, preset, machine), _one_shot(low, preset, machine))
        finally:
            if tuned is not None:
                tuned.__exit__(None, None, None)


def _one_shot(model: Vamba, preset: Preset, machine: Machine) -> Outcome:
    batch = video_batch(preset, preset.exact_frames, machine.device).to(machine.device)
    with torch.no_grad():
        logits = model.logits(batch)
    loss, _ = model.loss(batch)
    loss.backward()
    return _taken(model, logits, loss)


def _streamed(model: Vamba, preset: Preset, machine: Machine) -> Outcome:
    batch = video_batch(preset, preset.exact_frames, machine.device)
    encoder = VideoEncoder(
        model, Placement(), chunk_tokens=preset.exact_chunk_tokens, block_tokens=preset.exact_chunk_tokens
    )
    for patches_PC, grid in pieces(preset, preset.exact_frames, machine.device):
        encoder.add(patches_PC, grid)
    seen = encoder.finish().open_pass(batch.num_text_tokens)
    reads = [partial(seen.read, layer) for layer in range(len(model.model.hybrid_layers))]
    with torch.no_grad():
        logits = model.head(model.hidden_states(without_pixels(batch).to(machine.device), reads))
    plan = StreamingPlan(
        above_tokens=0,
        chunk_tokens=preset.exact_chunk_tokens,
        open_store=partial(Placement(kv="host").open_store, machine.device, logits.dtype),
    )
    loss, _ = forward_backward(model, batch, plan, device=machine.device)
    return _taken(model, logits, loss)


def _taken(model: Vamba, logits: Tensor, loss: Tensor) -> Outcome:
    """The results; gradients are taken off the model."""
    gradients = {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return {"logits": logits.double(), "loss": loss.detach().double()} | gradients


def _row(dtype: str, reference: Outcome, streamed: Outcome, one_shot: Outcome | None) -> dict[str, Any]:
    """Relative errors (2-norm). In low precision one shot has one as well, and the streamed one is measured by it."""
    errors = _errors(streamed, reference)
    worst = max(errors, key=lambda name: errors[name])
    row: dict[str, Any] = {
        "dtype": dtype,
        "tensors": len(errors),
        "logits": errors["logits"],
        "gradients": _all_gradients(streamed, reference),
        "worst": worst,
        "error": errors[worst],
    }
    if one_shot is None:
        row["tolerance"] = TOLERANCE[torch.float32]
        return row | {"ok": errors[worst] <= row["tolerance"]}
    row["one_shot"] = {
        "logits": _errors(one_shot, reference)["logits"],
        "gradients": _all_gradients(one_shot, reference),
    }
    pairs = [(row[name], row["one_shot"][name]) for name in ("logits", "gradients")]
    return row | {"ok": all(own <= max(2 * other, TOLERANCE[torch.bfloat16]) for own, other in pairs)}


def _errors(actual: Outcome, wanted: Outcome) -> dict[str, float]:
    assert actual.keys() == wanted.keys(), actual.keys() ^ wanted.keys()
    return {name: ((actual[name] - t).norm() / wanted[_measure(name)].norm()).item() for name, t in wanted.items()}


def _measure(name: str) -> str:
    """The tensor whose size an error is relative to. The bias of keys moves all scores alike: its gradient is zero."""
    return name.replace("cross_attn.k_proj.bias", "cross_attn.k_proj.weight")


def _all_gradients(actual: Outcome, wanted: Outcome) -> float:
    """Of all gradients as one vector."""
    names = wanted.keys() - {"logits", "loss"}
    difference = sum((actual[name] - wanted[name]).square().sum() for name in names)
    return float((difference / sum(wanted[name].square().sum() for name in names)) ** 0.5)
