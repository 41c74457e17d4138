"""Two processes that promote at once, and one that is killed, with a real registry between them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.registry import history
from pipelines.registry.audit import open_audit_log
from pipelines.registry.audit_check import find_problems
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client
from tests.pipelines.evaluation.needle_data import write_model
from tests.pipelines.registry.at_once import PROMOTE, REGISTER

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from mlflow import MlflowClient
from pipelines.registry import promote, verification
from pipelines.registry.config import PromotionConfig

verification.load_problem = lambda directory: ""
name = sys.argv[2]
whole = getattr(MlflowClient, name)

def kill(*arguments, **named):
    if name != "set_model_version_tag" or arguments[3].startswith("promotion."):
        whole(*arguments, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(*arguments, **named)

setattr(MlflowClient, name, kill)
promote.promote(PromotionConfig(target=f"toy/{sys.argv[1]}"), force=True, reason="test")
"""


@pytest.fixture
def two_versions(run: Path, vamba_home: Path) -> Path:
    register_model("stage2", "toy")
    other = vamba_home / "runs" / "other"
    write_model(other / "model", seed=1)
    shutil.copyfile(run / "run.json", other / "run.json")
    (other / "run.json").write_text(json.dumps({**json.loads((run / "run.json").read_text()), "name": "other"}))
    assert register_model("other", "toy").version == "2"
    return vamba_home


def test_one_wins_and_the_other_is_told(two_versions: Path, tmp_path: Path) -> None:
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTE, f"toy/{version}", version, str(barrier)], stdout=subprocess.PIPE, text=True
        )
        for version in ("1", "2")
    ]
    said = {version: process.communicate(timeout=180)[0] for version, process in zip("12", both, strict=True)}
    assert sorted(process.returncode for process in both) == [0, 1], said
    winner = next(version for version, process in zip("12", both, strict=True) if process.returncode == 0)
    loser = {"1": "2", "2": "1"}[winner]
    assert said[winner].strip() == "moved"
    assert said[loser].startswith(("AliasMoved", "AliasBusy")) and winner in said[loser]
    assert str(open_client().get_registered_model("toy").aliases["champion"]) == winner
    assert find_problems("toy") == []
    moved = history.moves(open_audit_log().entries(), "toy", "champion")
    assert [entry.body["version"] for entry in moved] == [winner]


@pytest.mark.parametrize("call", ["set_registered_model_alias", "set_model_version_tag"])
def test_a_promotion_that_was_killed_is_completed_by_the_same_command(
    two_versions: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.registry.config import PromotionConfig
    from pipelines.registry.promote import promote

    promote(PromotionConfig(target="toy/1"), force=True, reason="test")
    done = subprocess.run([sys.executable, "-c", KILLED, "2", call], check=False, timeout=180)
    assert done.returncode == -signal.SIGKILL
    assert str(open_client().get_registered_model("toy").aliases["champion"]) == "2"
    assert any("a move is open" in problem for problem in find_problems("toy"))
    outcome = promote(PromotionConfig(target="toy/2"), force=True, reason="test")
    assert outcome.moved and outcome.previous == "1" and find_problems("toy") == []
    assert history.holders(open_audit_log().entries(), "toy", "champion") == ["1", "2"]
    interrupted = [entry.body for entry in open_audit_log().entries() if entry.body["action"] == history.INTERRUPT]
    assert [(line["version"], line["holder"]) for line in interrupted] == [("2", "2")]


def test_two_registrations_of_a_run_make_one_version(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VAMBA_MODELS", str(tmp_path / "store"))
    barrier = tmp_path / "barrier"
    barrier.mkdir()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", REGISTER, "stage2", "toy", number, str(barrier)], stdout=subprocess.PIPE, text=True
        )
        for number in "12"
    ]
    said = [process.communicate(timeout=180)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sorted(said) == ["models:/toy/1 False", "models:/toy/1 True"]
    assert [str(item.version) for item in open_client().search_model_versions("name = 'toy'")] == ["1"]
    assert [entry.body["action"] for entry in open_audit_log().entries()] == [history.REGISTER]
    assert find_problems("toy") == []
