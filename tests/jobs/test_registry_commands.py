"""register, promote, rollback, history, approve, pull and models as a user meets them: output and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.registry import verification
from tests.pipelines.evaluation.needle_data import write_model


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "toy")


@pytest.fixture
def run(vamba_home: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(verification, "load_problem", lambda directory: "")
    folder = vamba_home / "runs" / "first"
    shutil.copytree(model, folder / "model")
    (folder / "run.json").write_text(json.dumps({"name": "first", "data_digest": "sha256:d"}))
    return folder


@pytest.fixture(scope="module")
def home(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with toy/1, made once."""
    home = tmp_path_factory.mktemp("home")
    shutil.copytree(model, home / "runs" / "first" / "model")
    (home / "runs" / "first" / "run.json").write_text(json.dumps({"name": "first", "data_digest": "sha256:d"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VAMBA_HOME", str(home))
        assert vamba("register", "first", "--as", "toy").exit_code == 0
    return home


@pytest.fixture
def registered(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAMBA_HOME", str(home))


def test_the_whole_way_of_a_version(run: Path, tmp_path: Path, vamba_home: Path) -> None:
    assert vamba("register", "first", "--as", "toy").exit_code == 0
    refused = vamba("promote", "toy/1", "--to", "champion")
    assert refused.exit_code == 3 and "FAIL" in refused.output and "evaluation" in refused.output
    without = vamba("promote", "toy/1", "--force")
    assert without.exit_code == 2 and "--reason" in without.output
    hook = "http://user:pa55@127.0.0.1:1/x?token=t0ken"
    forced = vamba("promote", "toy/1", "--force", "--reason", "first one", "--notify", hook)
    assert forced.exit_code == 0 and "forced although" in forced.output
    assert "was not told" in forced.stderr and "pa55" not in forced.output + forced.stderr
    assert vamba("approve", "toy/1", "--by", "Grace", "--reason", "read it").exit_code == 0
    assert "was toy/1 already" in vamba("promote", "toy/1", "--force", "--reason", "again").output

    shown = json.loads(vamba("history", "toy", "--verify", "--json").output)
    actions = [entry["action"] for entry in shown["entries"]]
    assert actions == ["version.register", "promotion.refuse", "alias.begin", "alias.move", "hook.fail",
                       "version.approve"]  # fmt: skip
    assert shown["problems"] == []
    assert "forced, from none: first one" in vamba("history", "toy").output

    assert vamba("pull", "toy@champion", tmp_path / "out").exit_code == 0
    assert (tmp_path / "out" / "config.json").is_file()
    back = vamba("rollback", "toy")
    assert back.exit_code == 2 and "No version held champion of toy before 1" in back.output
    gone = vamba("models", "delete", "toy/1", "--reason", "tidy")
    assert gone.exit_code == 2 and "is champion" in gone.output
    assert "Nothing" not in vamba("models", "show", "toy@champion").output

    log = vamba_home / "audit" / "audit.jsonl"
    log.write_text(log.read_text().replace("first one", "first two"))
    broken = vamba("history", "toy", "--verify")
    assert broken.exit_code == 1 and "was changed or removed" in broken.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("promote", "toy/1", "--notify", "ftp://a:pa55@host"), "http:// or https://"),
        (("promote", "toy/9"), "no version 9"),
        (("promote", "toy/1", "--set", "gate.no_worse.max_dorp=0.1"), "did you mean `gate.no_worse.max_drop`"),
        (("promote", "toy/1", "--set", "gate.min_coverage=1.5"), "it is a share"),
        (("promote", "toy/1", "--to", "latest"), "reserves"),
        (("rollback", "toy", "--alias", "v1"), "reserves"),
        (("approve", "toy@champion", "--by", "a", "--reason", "b"), "names no version"),
        (("history", "nothing", "--verify"), "no registered model"),
        (("register", "nobody", "--as", "toy"), "no model 'nobody'"),
        (("pull", "toy@nobody", "out"), "not in the registry"),
        (("export", "first", "out", "--dtype", "int8"), "no floating type"),
    ],
)
def test_mistakes_are_told_with_exit_code_2(registered: None, words: tuple[str, ...], message: str) -> None:
    result = vamba(*words)
    assert result.exit_code == 2, result.output
    assert message in result.output and "pa55" not in result.output
