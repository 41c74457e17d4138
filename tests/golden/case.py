"""Reads the golden folders: numbers of the published implementation, made once in float32 on a CPU.

Each folder holds config.json, model.safetensors (the release's names), inputs, outputs and notes.json.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parent
ACTIVATIONS = 3e-5
"""Absolute and relative to the largest value: activations and logits."""
GRADIENTS = 2e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    directory: Path
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    notes: dict[str, Any]


def load_case(name: str) -> Case:
    directory = ROOT / name
    return Case(
        directory=directory,
        inputs=load_file(directory / "inputs.safetensors"),
        outputs=load_file(directory / "outputs.safetensors"),
        notes=json.loads((directory / "notes.json").read_text()),
    )


def assert_close(actual: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Equal within `tolerance`, absolute for values up to 1 and relative to the largest beyond."""
    difference = float((actual.detach() - expected.reshape(actual.shape)).abs().max())
    bound = tolerance * max(1.0, float(expected.abs().max()))
    assert difference <= bound, f"{what}: differs by {difference:.2e}, allowed {bound:.2e}"


def assert_norm(actual: Tensor | None, expected: float | None, what: str) -> None:
    """Gradient norm equal within 1e-3 relative and 1e-7 absolute; on either side None is no gradient, hence zero."""
    expected = expected or 0.0
    norm = 0.0 if actual is None else float(torch.linalg.vector_norm(actual))
    assert abs(norm - expected) <= 1e-3 * expected + 1e-7, f"{what}: norm {norm}, expected {expected}"
