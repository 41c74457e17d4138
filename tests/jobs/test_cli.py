"""The command as a user meets it: help, dry runs, errors in one paragraph, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.errors import exit_code_of
from jobs.cli.main import app
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model

VERBS = (
    "ingest",
    "train",
    "resume",
    "evaluate",
    "ask",
    "register",
    "promote",
    "approve",
    "rollback",
    "history",
    "pull",
    "export",
    "synthesize",
    "report",
    "doctor",
    "submit",
)


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", [make_sample(f"clip-{i}", num_frames=4, num_questions=2) for i in range(3)])
    return tmp_path / "data"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_with_an_example(verb: str) -> None:
    result = vamba(verb, "--help")
    assert result.exit_code == 0
    assert f"vamba {verb}" in result.output and "Example:" in result.output


@pytest.mark.parametrize(
    "verb",
    [
        ("runs", "ls"),
        ("runs", "show"),
        ("runs", "logs"),
        ("runs", "compare"),
        ("resume",),
        ("models", "ls"),
        ("models", "show"),
        ("data", "stats"),
        ("model", "convert"),
        ("model", "inspect"),
    ],
)
def test_reading_verbs_can_answer_in_json(verb: tuple[str, str]) -> None:
    assert "--json" in vamba(*verb, "--help").output


def test_a_profile_that_nobody_makes_is_taken_back(vamba_home: Path) -> None:
    run = vamba_home / "runs" / "idle"
    (run / "metrics").mkdir(parents=True)
    (run / "run.json").write_text("{}")
    result = vamba("runs", "profile", "idle", "--wait", "0.01")
    assert result.exit_code == 1 and "wrote no profile within 0.01 s" in result.output
    assert not (run / "control" / "profile").exists()
    assert vamba("runs", "profile", "idle", "--wait", "0", "--steps", "2").exit_code == 0
    assert json.loads((run / "control" / "profile").read_text()) == {"steps": 2, "from": 0}


def test_a_terminal_without_unicode_gets_characters_spelled_out() -> None:
    command = [sys.executable, "-m", "jobs", "train", "--help"]
    environment = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "\\u2026" in done.stdout, done.stderr


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys, jobs.cli.main\n"
        "heavy = {'torch', 'ray', 'mlflow', 'pyarrow', 'numpy', 'transformers', 'pydantic', 'yaml', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("evaluate", "--model", "nobody", "--data", "{data}"), "no model 'nobody'"),
        (("evaluate", "--model", "{model}", "--data", "/nowhere"), "no dataset at /nowhere"),
        (("evaluate", "--model", "{model}", "--data", "{data}", "--split", "exam"), "split"),
        (("evaluate", "--model", "{model}", "--data", "{data}", "--control", "magic"), "shuffled-video"),
        (
            ("evaluate", "--model", "{model}", "--data", "{data}", "--set", "max_token=3"),
            "did you mean `max_new_tokens`",
        ),
        (("ask", "/nowhere.mp4", "What?", "--model", "{model}"), "no file at /nowhere.mp4"),
        (("runs", "show", "nobody"), "no run 'nobody'"),
        (("train", "tiny_pretrian", "--data", "{data}", "--name", "r"), "did you mean `tiny_pretrain`"),
        (("submit", "dance"), "choose one of"),
        (("report", "--run", "nobody"), "no run 'nobody'"),
    ],
)
def test_mistakes_end_with_one_paragraph_and_exit_code_2(
    words: tuple[str, ...], message: str, data: Path, model: Path
) -> None:
    result = vamba(*(word.format(data=data, model=model) for word in words))
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    error = result.stderr[result.stderr.index("vamba: ") :].strip()
    assert "\n" not in error and "Traceback" not in result.output


def test_debug_shows_where(model: Path) -> None:
    result = vamba("--debug", "runs", "show", "nobody")
    assert result.exit_code == 2 and "Traceback" in result.stderr and "ValueError" in result.stderr


def test_exit_codes_follow_the_error() -> None:
    class PreemptedError(Exception):
        exit_code = 75

    assert exit_code_of(PreemptedError()) == 75
    assert exit_code_of(ValueError("x")) == exit_code_of(FileNotFoundError("x")) == 2
    assert exit_code_of(RuntimeError("x")) == 1


def test_an_interruption_is_one_line_and_130(model: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("pipelines.evaluation.job.run_evaluation", interrupted)
    result = vamba("evaluate", "--model", model, "--data", data)
    assert result.exit_code == 130
    assert result.stderr.strip().count("\n") == 0 and "continues" in result.stderr
    monkeypatch.setattr("pipelines.datasets.verify.verify", lambda *_, **__: interrupted())
    assert "starts again" in vamba("data", "verify", data).stderr


def test_evaluate_dry_run_prints_configuration_and_plan_and_writes_nothing(
    model: Path, data: Path, vamba_home: Path
) -> None:
    result = vamba("evaluate", "--model", model, "--data", data, "--dry-run", "--set", "max_new_tokens=7")
    assert result.exit_code == 0, result.output
    assert "max_new_tokens: 7" in result.output and "questions          6" in result.output
    assert not vamba_home.exists()


def test_evaluate_answers_in_json(model: Path, data: Path) -> None:
    result = vamba("evaluate", "--model", model, "--data", data, "--json", "--set", "log_to_mlflow=false")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["overall"]["num_questions"] == 6


def test_data_stats_tells_splits_and_failures(data: Path) -> None:
    described = json.loads(vamba("data", "stats", data, "--json").stdout)
    assert described["num_samples"] == 3 and described["splits"]["test"]["num_conversations"] == 9
    assert str(data) in vamba("data", "ls", data.parent).stdout


def test_submit_dry_run_shows_what_would_be_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "__main__.py").write_text("")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "secret").write_text("x" * 1000)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:geheim@127.0.0.1:5000")
    words = (
        "submit",
        "train",
        "instruct",
        "--data",
        "s3://b/d e",
        "--name",
        "r1",
        "--working-dir",
        tmp_path,
        "--dry-run",
    )
    result = vamba(*words)
    assert result.exit_code == 0, result.output
    assert "python -m jobs train instruct --data 's3://b/d e' --name r1 --address auto" in result.output
    assert "1 files" in result.output and "geheim" not in result.output


def test_doctor_names_what_is_there(vamba_home: Path) -> None:
    findings = {row["name"]: row for row in json.loads(vamba("doctor", "--json").stdout)}
    assert {"python", "torch", "ffmpeg", "Ray", "MLflow", "storage"} <= set(findings)
    assert findings["backends"]["found"].startswith("scan torch, conv torch, attention sdpa on cpu")
    assert findings["storage"]["state"] == "ok"
    assert all(row["state"] == "ok" or row["remedy"] for row in findings.values())


def test_doctor_fails_where_the_named_ffmpeg_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMBA_FFMPEG", "")
    result = vamba("doctor", "--ffmpeg", tmp_path / "no-ffmpeg", "--json")
    assert result.exit_code == 1
    assert next(row for row in json.loads(result.stdout) if row["name"] == "ffmpeg")["state"] == "BROKEN"
