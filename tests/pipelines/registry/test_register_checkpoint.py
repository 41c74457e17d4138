"""A checkpoint of a run as a version: what is exported, that it is kept, and what a longer run leaves alone."""

from __future__ import annotations

import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.registry.deletion import delete_version
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import ModelNotFoundError, resolve_model
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client
from pipelines.training.checkpoint_export import CheckpointDamagedError
from pipelines.training.checkpoints import CheckpointStore
from pipelines.training.config import TrainingConfig
from pipelines.training.here import train_here
from pipelines.training.retention import Retention
from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config
from tests.pipelines.evaluation.needle_data import write_model
from tests.s3_server import S3Server, s3, s3_server  # noqa: F401

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainingConfig:
    """A run of six steps that kept the checkpoints of steps 2, 4 and 6."""
    home = tmp_path_factory.mktemp("trained")
    write_dataset(home / "data", [make_sample(i) for i in range(8)])
    config = tiny_config(home / "data", home, "short", num_steps=6, every=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(home))
        train_here(config, notice=lambda line: None)
    return config


@pytest.fixture
def run(trained: TrainingConfig, vamba_home: Path, empty_registry: Path) -> RunDirectory:
    source = run_directory(trained.storage, "short")
    shutil.copytree(source.root, vamba_home / "runs" / "short")
    shutil.copyfile(empty_registry, vamba_home / "mlflow.db")
    return RunDirectory(vamba_home / "runs" / "short")


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


def steps(run: RunDirectory) -> list[int]:
    return [checkpoint.step for checkpoint in CheckpointStore(run.checkpoints).committed()]


def test_the_last_checkpoint_exports_to_the_bytes_of_the_finished_model(run: RunDirectory) -> None:
    version = register_model("short@6", "toy")
    exported = resolve_model(version.uri).directory
    assert exported == run.root / "models" / "step_00000006"
    assert {path.name: path.read_bytes() for path in exported.iterdir()} == {
        path.name: path.read_bytes() for path in run.model.iterdir()
    }


def test_an_earlier_one_is_another_model_with_its_step_in_the_lineage(run: RunDirectory) -> None:
    version = register_model("short@4", "toy")
    assert weights(resolve_model(version.uri).directory) != weights(run.model)
    assert (version.tags["run"], version.tags["step"]) == ("short", "4")
    assert version.tags["config_digest"].startswith("sha256:") and version.tags["backends"].startswith("{")
    assert not register_model("short@4", "toy").created


def test_two_who_register_a_step_at_once_export_it_once(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from pipelines.training import checkpoint_export
    from pipelines.training.checkpoint_export import export_checkpoint

    write, written = checkpoint_export._write, []

    def slowly(*arguments: Any) -> None:
        written.append(arguments)
        time.sleep(0.3)
        write(*arguments)

    monkeypatch.setattr(checkpoint_export, "_write", slowly)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: export_checkpoint(run, 4), range(2))
    assert first == second and len(written) == 1
    assert [path.name for path in first.parent.iterdir() if not path.name.endswith(".lock")] == [first.name]


@pytest.mark.parametrize("ref", ["short@3", "short@best"])
def test_a_step_that_is_not_kept_is_told_with_those_that_are(run: RunDirectory, ref: str) -> None:
    with pytest.raises(ValueError, match="It has 2, 4, 6"):
        register_model(ref, "toy")


def test_a_damaged_checkpoint_is_not_exported(run: RunDirectory) -> None:
    file = next((run.checkpoints / "step_00000004").glob("*.distcp"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointDamagedError, match="sha256"):
        register_model("short@4", "toy")
    assert not (run.root / "models").exists()


def test_retention_keeps_what_is_registered_until_it_is_deleted(run: RunDirectory) -> None:
    register_model("short@2", "toy")
    store = CheckpointStore(run.checkpoints, retention=Retention(keep_last=1, keep_best=0))
    store.remove_expired()
    assert steps(run) == [2, 6]
    assert {item.step: item.versions for item in store.committed()} == {2: ("toy/1",), 6: ()}
    delete_version("toy/1", reason="test")
    store.remove_expired()
    assert steps(run) == [6]


def test_a_finished_model_keeps_its_checkpoint(run: RunDirectory) -> None:
    register_model("short", "toy")
    held = [item.step for item in CheckpointStore(run.checkpoints).committed() if item.is_held]
    assert held == [6]


def test_a_longer_run_leaves_the_registered_model_where_it_is_found(run: RunDirectory, trained: TrainingConfig) -> None:
    version = register_model("short", "toy")
    before = weights(resolve_model(version.uri).directory)
    longer = replace(trained, storage=str(run.root.parent.parent), train=replace(trained.train, num_steps=8))
    train_here(longer, notice=lambda line: None)
    assert weights(run.model) != before
    assert weights(resolve_model(version.uri).directory) == before
    assert register_model("short", "toy").version == "2"


def test_a_model_is_copied_to_an_object_store_and_named_by_its_address(
    run: RunDirectory,
    s3: S3Server,  # noqa: F811
) -> None:
    bucket = s3.make_bucket()
    version = register_model("short", "toy", store=f"s3://{bucket}/models")
    assert version.source.startswith(f"s3://{bucket}/models/toy/")
    assert str(open_client().get_model_version("toy", "1").source) == version.source
    found = resolve_model("models:/toy/1").directory
    assert weights(found) == weights(run.model) and found != run.model
    from pipelines.registry.candidates import registered_candidate
    from pipelines.registry.verification import FILES_CHECK, verify

    def files() -> bool:
        checks = verify(registered_candidate(open_client(), "toy", "1"))
        return next(check for check in checks if check.name == FILES_CHECK).passed

    shutil.rmtree(found)
    assert files(), "fetched and compared"
    key = f"{version.source.removeprefix(f's3://{bucket}/')}/config.json"
    s3.client.put_object(Bucket=bucket, Key=key, Body=b"{}")
    assert not files(), "a good copy here does not stand in for a changed original"


def test_a_mirrored_model_is_registered_where_it_lies(run: RunDirectory, s3: S3Server) -> None:  # noqa: F811
    bucket = s3.make_bucket()
    s3.put_folder(run.model, bucket, "runs/short/model/")
    s3.client.put_object(Bucket=bucket, Key="runs/short/run.json", Body=run.run_path.read_bytes())
    version = register_model(f"s3://{bucket}/runs/short/model", "toy")
    assert version.source == f"s3://{bucket}/runs/short/model" and version.tags["run"] == "short"
    with pytest.raises(ModelNotFoundError, match="no model at"):
        register_model(f"s3://{bucket}/runs/none/model", "toy")


def test_a_model_that_was_replaced_where_it_is_stored_is_fetched_again(
    s3: S3Server,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bucket = s3.make_bucket()
    uri = f"s3://{bucket}/runs/short/model"
    for seed in (0, 1):
        s3.put_folder(write_model(tmp_path / str(seed), seed=seed), bucket, "runs/short/model/")
        found = resolve_model(uri)
        assert hash_model_files(found.directory) == hash_model_files(tmp_path / str(seed)), seed
    monkeypatch.setattr("pipelines.registry.transfer.fetch_model", None)
    assert resolve_model(uri) == found, "what has not changed is not fetched again"
