"""The clean process in which the gate loads a model."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines.registry.verification import load_problem
from tests.pipelines.evaluation.needle_data import write_model


@pytest.mark.slow
def test_a_whole_model_loads_and_a_cut_one_tells_why(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "model")
    assert load_problem(directory) == ""
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    assert "safetensors" in load_problem(directory)
