"""`vamba submit` and `vamba jobs` as a user meets them: plans, manifests that can be piped on, refusals, detaching."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner, Result

from jobs.cli import evaluate, ingest, promote, submit, train
from jobs.cli.main import app
from tests.architecture.sources import ROOT
from tests.jobs.submission.cases import CASES, GPUS, WORDS, plan

URL = "http://127.0.0.1:8265"


@pytest.fixture(autouse=True)
def in_the_source_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.mark.parametrize("to", [URL, "ray://head:10001", "kuberay", "sky"])
@pytest.mark.parametrize(("verb", "profile"), CASES)
def test_a_dry_run_shows_what_would_be_sent(verb: str, profile: str, to: str) -> None:
    done = vamba("submit", verb, "--to", to, "--profile", profile, "--dry-run", "--", *WORDS[verb])
    assert done.exit_code == 0, done.output
    for name in ("entrypoint", "image", "needs", "secret", "environment RAY", "working directory"):
        assert name in done.stdout, name
    assert f"{verb} {shlex.join(WORDS[verb])}" in done.stdout
    if to in ("kuberay", "sky"):
        assert list(yaml.safe_load_all(done.stdout)) == list(plan(to, verb, profile=profile).documents)
        assert "nothing was sent" in done.stderr
    else:
        assert "pipelines/" in done.stdout and "files, " in done.stdout


def test_every_file_is_listed_on_demand() -> None:
    done = vamba("submit", "promote", "--dry-run", "--list-files", "--", *WORDS["promote"])
    assert "pipelines/capacity.py" in done.stdout and "vamba/model/" in done.stdout


def test_a_manifest_is_written_and_the_next_command_told(tmp_path: Path) -> None:
    for to, command in (("kuberay", "kubectl create -f "), ("sky", "sky jobs launch -n vamba-ingest-data ")):
        file = tmp_path / f"{to}.yaml"
        done = vamba("submit", "ingest", *WORDS["ingest"], "--to", to, "--write", file)
        assert done.exit_code == 0 and list(yaml.safe_load_all(file.read_text())) == list(plan(to, "ingest").documents)
        assert command in done.stderr and str(file) in done.stderr
    refused = vamba("submit", "ingest", *WORDS["ingest"], "--write", tmp_path / "x.yaml")
    assert refused.exit_code == 2 and "the Jobs API takes none" in refused.stderr


def test_no_secret_is_shown_or_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = "planted-7f3a"
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "RAY_AUTH_TOKEN", "HF_TOKEN"):
        monkeypatch.setenv(name, planted)
    words = ("tiny_pretrain", "--data", f"s3://user:{planted}@bucket/data", "--name", "run7")
    for to in (URL, "sky", "kuberay"):
        done = vamba("submit", "train", *WORDS["train"], "--to", to, "--dry-run", "--list-files")
        assert done.exit_code == 0 and planted not in done.output
    assert planted not in vamba("submit", "train", *words, "--dry-run").output
    for option in (f"HF_TOKEN={planted}", "HF_TOKEN", f"MY_PASSWORD={planted}", f"DB=postgresql://u:{planted}@h/db"):
        refused = vamba("submit", "train", *WORDS["train"], "--env", option, "--dry-run")
        assert refused.exit_code == 2 and planted not in refused.output, option
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"https://u:{planted}@mlflow.example.com")
    for to in (URL, "sky", "kuberay"):
        done = vamba("submit", "train", *WORDS["train"], "--to", to, "--dry-run")
        assert done.exit_code == 0 and planted not in done.output
    assert (
        yaml.safe_load(vamba("submit", "promote", "x", "--to", "sky").stdout)["secrets"]["MLFLOW_TRACKING_URI"] is None
    )


@pytest.mark.parametrize(
    "option",
    [
        "LINK=https://host/x?X-Amz-Signature=planted-7f3a",
        "STORE=s3://AKIAKEY:ab/planted-7f3a@bucket",
        "PGPASSWORD=planted-7f3a",
        "PLAIN=planted-7f3a",
    ],
)
@pytest.mark.parametrize("to", [URL, "sky", "kuberay"])
def test_a_secret_is_no_variable_of_a_job(option: str, to: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "planted-7f3a")
    refused = vamba("submit", "train", *WORDS["train"], "--env", option, "--to", to, "--dry-run")
    assert refused.exit_code == 2 and "planted-7f3a" not in refused.output, refused.output
    allowed = vamba(
        "submit", "train", *WORDS["train"], "--env", "TOKENIZERS_PARALLELISM=false", "--to", to, "--dry-run"
    )
    assert allowed.exit_code == 0, allowed.output


@pytest.mark.parametrize("to", [URL, "sky", "kuberay"])
def test_a_secret_is_no_word_of_a_job(to: str, tmp_path: Path) -> None:
    words = ("--notify", "https://user:planted-7f3a@hooks.example.com/x")
    refused = vamba("submit", "promote", "--to", to, "--dry-run", "--", *WORDS["promote"], *words)
    assert refused.exit_code == 2 and "hold a credential" in refused.stderr
    assert "planted-7f3a" not in refused.output
    mine = tmp_path / "mine.yaml"
    mine.write_text("# was s3://AKIAKEY:planted-7f3a@bucket\nworkers: {num_workers: 1}\n")
    refused = vamba("submit", "train", *WORDS["train"], "--config", mine, "--to", to, "--dry-run")
    assert refused.exit_code == 2 and "holds a credential" in refused.stderr and "planted-7f3a" not in refused.output


def test_the_password_of_a_dashboard_is_not_shown() -> None:
    done = vamba("submit", "train", *WORDS["train"], "--to", "https://u:planted-7f3a@ray.example.com", "--dry-run")
    assert done.exit_code == 0 and "planted-7f3a" not in done.output and "ray.example.com" in done.stdout


def test_the_password_of_the_tracking_server_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://u:planted-7f3a@mlflow.example.com/a")
    submission = plan(URL)
    assert submission.environment["MLFLOW_TRACKING_URI"] == "https://mlflow.example.com/a"
    assert "MLFLOW_TRACKING_PASSWORD" in str(submission.secrets)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://u:planted-7f3a@db/mlflow")
    with pytest.raises(ValueError, match="password of a database") as error:
        plan(URL)
    assert "planted-7f3a" not in str(error.value)
    other = plan(URL, environment={"MLFLOW_TRACKING_URI": "http://mlflow:5000"})
    assert other.environment["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"


@pytest.mark.parametrize("to", ["sky", "kuberay"])
def test_a_value_of_several_lines_leaves_the_manifest_whole(to: str) -> None:
    note = "first\nkind: Secret\n--- and more"
    done = vamba("submit", "train", *WORDS["train"], "--to", to, "--env", f"NOTE={note}", "--dry-run")
    assert done.exit_code == 0
    expected = plan(to, environment={"NOTE": note}).documents
    assert list(yaml.safe_load_all(done.stdout)) == list(expected)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", *GPUS, "--to", "kuberay", "--nodes", "2"), "needs 32 GPUs"),
        (("train", *WORDS["train"], "--to", "champion"), "stands after `--`"),
        (("train", *WORDS["train"], "--env", "NOT_SET_ANYWHERE"), "not set here"),
        (("train", *WORDS["train"], "--env", "1=2"), "not the name of a variable"),
        (("train", *WORDS["train"], "--working-dir", "/"), "not a source tree"),
    ],
)
def test_a_mistake_exits_with_2_and_one_paragraph(words: tuple[str, ...], message: str) -> None:
    done = vamba("submit", *words)
    assert done.exit_code == 2 and message in done.stderr and "Traceback" not in done.output


def test_options_of_the_jobs_are_not_taken_from_them() -> None:
    """What both have must be written after `--`; that list must not grow unseen."""

    def names(verb: Any) -> set[str]:
        single = typer.Typer(add_completion=False)
        single.command()(verb)
        return {option for item in typer.main.get_command(single).params for option in item.opts if "--" in option}

    for verb in (ingest.ingest, train.train, evaluate.evaluate, promote.promote):
        assert names(submit.submit) & names(verb) - {"--dry-run", "--to"} == set()


class _Place:
    """Takes a job, and its log never ends."""

    words = "--to http://head:8265"

    def send(self, submission: Any, *, check: bool, note: Any) -> str:
        self.checked = check
        return "job_1"

    def follow(self, identity: str, show: Any) -> int:
        raise KeyboardInterrupt


def test_ctrl_c_detaches_and_says_how_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    place = _Place()
    monkeypatch.setattr("jobs.submission.place.place_of", lambda to, namespace: place)
    done = vamba("submit", "train", *WORDS["train"])
    assert done.exit_code == 0 and place.checked
    assert "vamba jobs logs job_1 --to http://head:8265" in done.stderr
    assert "vamba jobs stop job_1 --to http://head:8265" in done.stderr
    detached = vamba("submit", "train", *WORDS["train"], "--detach", "--no-capacity-check")
    assert detached.stdout == "job_1\n" and not place.checked
    assert "job_1 goes on" in vamba("jobs", "logs", "job_1").stderr


def test_a_relative_path_is_pointed_out() -> None:
    done = vamba("submit", "ingest", "videos", "--out", "/mnt/data", "--dry-run")
    assert done.exit_code == 0 and "'videos' is a relative path" in done.stderr and "/mnt/data' is" not in done.stderr


def test_where_runs_are_kept_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VAMBA_HOME")
    told = "VAMBA_HOME is not set here"
    assert told in vamba("submit", "train", *WORDS["train"], "--dry-run").stderr
    for words in (("train", *WORDS["train"], "--env", "VAMBA_HOME=/mnt/x"), ("ingest", *WORDS["ingest"])):
        assert told not in vamba("submit", *words, "--dry-run").stderr
    assert told not in vamba("submit", "train", *WORDS["train"], "--dry-run", "--to", "kuberay").stderr


def test_jobs_of_skypilot_are_followed_by_its_own_commands() -> None:
    done = vamba("jobs", "status", "x", "--to", "sky")
    assert done.exit_code == 2 and "sky jobs logs" in done.stderr


@pytest.mark.parametrize("identity", ["", "a/../b", "a?b", "a b", "#x"])
def test_what_is_no_jobs_id_becomes_no_address(identity: str) -> None:
    for words in (("jobs", "status"), ("jobs", "logs"), ("jobs", "stop")):
        refused = vamba(*words, "--to", "http://127.0.0.1:1", "--", identity)
        assert refused.exit_code == 2 and "is no job's id" in refused.stderr, refused.output
