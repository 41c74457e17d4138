"""Addresses that carry secrets: refused where they would be stored, blotted out where they are shown or go wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.ingest.remote import RemoteRanges
from pipelines.ingest.types import IngestError
from pipelines.training.outages import Outages
from pipelines.training.run_directory import RunDirectory
from pipelines.training.run_log import failures_recorded, kept_notice, log_entries
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model

SECRET = "pa55word-planted"
WITH_SECRET = (
    f"s3://key:{SECRET}@bucket/data",
    f"https://user:{SECRET}@host/data",
    f"https://host/data?X-Amz-Credential=a&X-Amz-Signature={SECRET}",
    f"https://host/data?sig={SECRET}",
    f"s3://AKIAKEY:ab/{SECRET}@bucket/data",
)
TRACKING = (
    f"postgresql://vamba:{SECRET}@127.0.0.1:1/mlflow",
    f"http://user:{SECRET}@127.0.0.1:1",
    f"mysql+pymysql://vamba:{SECRET}@127.0.0.1:1/mlflow",
    f"nonsense://vamba:{SECRET}@127.0.0.1:1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("secrets")
    write_model(root / "model")
    write_dataset(root / "data", [make_sample("clip", num_frames=2, num_questions=1)])
    return root


def vamba(*words: object) -> Result:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert SECRET not in result.output, result.output
    return result


def written(*roots: Path) -> bytes:
    return b"".join(path.read_bytes() for root in roots for path in root.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("address", "debug"), [*((address, ()) for address in WITH_SECRET), (WITH_SECRET[0], ("--debug",))]
)
def test_an_address_that_would_be_stored_is_refused(
    address: str, debug: tuple[str, ...], folder: Path, tmp_path: Path, vamba_home: Path
) -> None:
    video = tmp_path / "a.mp4"
    video.touch()
    commands: list[tuple[object, ...]] = [
        ("ingest", address, "--out", tmp_path / "out"),
        ("ingest", video, "--out", address),
        ("ingest", video, "--out", tmp_path / "out", "--conversations", address),
        ("ingest", video, "--out", address, "--dry-run"),
        ("train", "tiny_pretrain", "--data", address, "--name", "r", "--here"),
        ("train", "tiny_pretrain", "--data", address, "--name", "r", "--dry-run"),
        (
            "train",
            "tiny_pretrain",
            "--data",
            folder / "data",
            "--name",
            "r",
            "--here",
            "--set",
            f"mirror={address}",
        ),
        ("train", "tiny_pretrain", "--data", folder / "data", "--name", "r", "--here", "--init-from", address),
        ("evaluate", "--model", folder / "model", "--data", address),
        ("evaluate", "--model", address, "--data", folder / "data", "--dry-run"),
        ("register", address, "--as", "toy"),
        ("register", folder / "model", "--as", "toy", "--store", address),
        ("data", "stats", address),
        ("data", "verify", address),
        ("report", "--data", address, "--out", tmp_path / "r.html"),
        ("export", address, tmp_path / "model"),
        ("ask", address, "What?", "--model", folder / "model"),
        ("models", "ls", address),
        ("data", "stats", folder / "data", address),
    ]
    for words in commands:
        result = vamba(*debug, *words)
        assert result.exit_code == 2, (words, result.output)
    assert SECRET.encode() not in written(tmp_path, vamba_home)


@pytest.mark.parametrize("uri", TRACKING)
def test_a_tracking_server_that_fails_is_named_without_its_password(
    uri: str, folder: Path, monkeypatch: pytest.MonkeyPatch, vamba_home: Path
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("MLFLOW_SQLALCHEMYSTORE_POOL_SIZE", "1")
    for words in (("models", "ls"), ("--debug", "models", "ls"), ("register", folder / "model", "--as", "toy")):
        result = vamba(*words)
        assert result.exit_code != 0 and "REDACTED@127.0.0.1:1" in result.output, result.output
    vamba("doctor")
    assert SECRET.encode() not in written(vamba_home) if vamba_home.exists() else True


def test_a_reason_is_kept_without_the_secrets_that_were_pasted_into_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, vamba_home: Path
) -> None:
    monkeypatch.setenv("TICKETS_TOKEN", SECRET)
    reason = f"see https://me:{SECRET}@tickets/7, read with {SECRET}"
    assert vamba("register", folder / "model", "--as", "toy").exit_code == 0
    for words in (("approve", "toy/1", "--by", "R. Hopper"), ("promote", "toy/1", "--force", "--to", "challenger")):
        done = vamba(*words, "--reason", reason)
        assert done.exit_code == 0, done.output
    assert "see https://REDACTED@tickets/7" in vamba("history", "toy").output.replace("\n", " ")
    assert SECRET.encode() not in written(vamba_home)


def test_what_a_job_and_its_workers_die_of_is_kept_without_secrets(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path / "runs" / "r")
    directory.root.mkdir(parents=True)
    shown: list[str] = []
    notice = kept_notice(directory, shown.append)
    outages = Outages(notice, away="MLflow can't be reached", back="back")

    def fails() -> None:
        raise ConnectionError(f"HTTPConnectionPool: {TRACKING[1]}/api failed; url: /a?X-Amz-Signature={SECRET}")

    assert not outages.attempt(fails)
    with pytest.raises(ConnectionError), failures_recorded(directory, 1, 0):
        fails()
    directory.append_event("config_changed", fields={"data": (WITH_SECRET[0], WITH_SECRET[2])})
    directory.failure_path.parent.mkdir()
    directory.write_failure(f"no answer of {WITH_SECRET[1]}")
    assert SECRET.encode() not in written(tmp_path)
    assert SECRET not in str(shown) + str(log_entries(directory))
    assert b"/api failed" in written(tmp_path), "the rest is there"


def test_a_store_that_fails_is_quoted_without_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        def open(self, *_: object, **__: object) -> None:
            raise OSError(f"GET https://host/x?X-Amz-Signature={SECRET}: connection reset")

    monkeypatch.setattr("pipelines.filesystems.filesystem_of", lambda uri: (Refusing(), "x"))
    for address in WITH_SECRET:
        with pytest.raises(IngestError) as error:
            RemoteRanges(pause=lambda _: None).size(address)
        assert SECRET not in error.value.message
