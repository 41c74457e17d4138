"""The servers, started once for all tests of services, and a home of each test's own that uses them."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pipelines.registry.tracking import experiment_id, open_client
from tests.pipelines.evaluation.needle_data import write_model
from tests.services.bed import AUDIT, Bed, open_bed
from tests.services.postgresql import find_postgresql
from tests.services.processes import NotInstalled
from tests.services.seaweedfs import find_weed


@pytest.fixture(scope="session")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """S3, PostgreSQL and MLflow's server. Where their programs are missing, VAMBA_SERVICES=optional skips the tests."""
    try:
        find_postgresql()
        find_weed()
    except NotInstalled as error:
        if os.environ.get("VAMBA_SERVICES") == "optional":
            pytest.skip(str(error))
        raise
    with open_bed(tmp_path_factory.mktemp("services")) as servers:
        yield servers


@pytest.fixture
def bucket(bed: Bed, vamba_home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An empty bucket for models. This test and its child processes use the servers; the audit log lies in S3, too."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION", "VAMBA_ACTOR"):
        monkeypatch.delenv(name, raising=False)
    bucket = bed.s3.make_bucket()
    places = {"VAMBA_MODELS": f"s3://{bucket}/models", "VAMBA_AUDIT": f"s3://{AUDIT}"}
    for name, value in {**bed.environment, **places}.items():
        monkeypatch.setenv(name, value)
    vamba_home.mkdir(parents=True)
    return bucket


@pytest.fixture
def name() -> str:
    """Of a registered model that no other test uses."""
    return f"toy-{secrets.token_hex(4)}"


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two untrained models, made once."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / str(seed), seed=seed) for seed in (0, 1)]


@pytest.fixture
def make_run(bucket: str, vamba_home: Path, models: list[Path]) -> Callable[..., Path]:
    """Makes a finished run as training leaves it, with its MLflow run on the server."""

    def make(run: str, model: int = 0) -> Path:
        client = open_client()
        tracked = client.create_run(experiment_id(client), run_name=run)
        client.set_terminated(tracked.info.run_id)
        directory = vamba_home / "runs" / run
        shutil.copytree(models[model], directory / "model")
        record = {
            "name": run,
            "mlflow_run_id": tracked.info.run_id,
            "config_digest": "sha256:c",
            "data_digest": "sha256:d",
            "git_commit": "1234",
            "git_dirty": False,
        }
        (directory / "run.json").write_text(json.dumps(record))
        return directory

    return make
