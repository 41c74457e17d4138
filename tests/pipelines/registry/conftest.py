"""A registry on SQLite, and a run as training leaves it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.registry import verification
from pipelines.registry.tracking import open_client
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry without models, made once: creating MLflow's schema takes seconds."""
    home = tmp_path_factory.mktemp("registry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(home))
        open_client()
    return home / "mlflow.db"


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, made once."""
    return write_model(tmp_path_factory.mktemp("untrained") / "model")


@pytest.fixture
def run(vamba_home: Path, empty_registry: Path, untrained: Path) -> Path:
    """A finished run as training leaves it."""
    vamba_home.mkdir(parents=True)
    shutil.copyfile(empty_registry, vamba_home / "mlflow.db")
    directory = vamba_home / "runs" / "stage2"
    shutil.copytree(untrained, directory / "model")
    record = {
        "name": "stage2",
        "config_digest": "sha256:c",
        "data_digest": "sha256:d",
        "git_commit": "1234",
        "git_dirty": False,
    }
    (directory / "run.json").write_text(json.dumps(record))
    return directory


@pytest.fixture
def evaluated(run: Path, tmp_path: Path) -> Path:
    """The run, with an evaluation and its control."""
    write_dataset(tmp_path / "data", [make_sample(f"clip-{i}", num_frames=4, num_questions=2) for i in range(3)])
    for control in (False, True):
        run_evaluation(
            EvaluationConfig(model="stage2", data=str(tmp_path / "data"), shuffle_videos=control, log_to_mlflow=False)
        )
    return run


@pytest.fixture(autouse=True)
def load_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process that imports torch takes seconds; one test does it for real."""
    monkeypatch.setattr(verification, "load_problem", lambda directory: "")
