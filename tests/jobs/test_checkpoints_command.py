"""`vamba checkpoints` as a user meets it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from jobs.cli.main import app
from pipelines.training.checkpoint_files import checkpoint_path, commit
from pipelines.training.run_directory import RunDirectory, write_json
from pipelines.training.run_lock import exclusive, only_job


def vamba(*words: object) -> Result:
    return CliRunner().invoke(app, ["checkpoints", *(str(word) for word in words)])


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDirectory:
    """A run that keeps two checkpoints and has three, a killed write and one set aside."""
    monkeypatch.setenv("VAMBA_HOME", str(tmp_path))
    directory = RunDirectory(tmp_path / "runs" / "stage2")
    directory.checkpoints.mkdir(parents=True)
    write_json(directory.config_path, {"checkpoints": {"keep_last": 2, "keep_every_steps": 0}})
    write_json(directory.run_path, {"name": "stage2"})
    for step in (10, 20, 30):
        draft = directory.checkpoints / "draft.tmp"
        draft.mkdir()
        content = f"weights of step {step}".encode()
        (draft / "__0_0.distcp").write_bytes(content)
        files = {"__0_0.distcp": {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}}
        meta = {"format_version": 2, "step": step, "world_size": 2, "created": 1.8e9, "files": files}
        commit(draft, checkpoint_path(directory.checkpoints, step), meta)
    for name in ("step_00000040.tmp", "step_00000005.quarantined-1"):
        (directory.checkpoints / name).mkdir()
        (directory.checkpoints / name / "part").write_bytes(b"12345")
    return directory


def names(run: RunDirectory) -> list[str]:
    return sorted(path.name for path in run.checkpoints.iterdir())


@pytest.mark.parametrize("verb", ["ls", "verify", "gc", "pin", "unpin"])
def test_help_has_an_example(verb: str) -> None:
    assert f"vamba checkpoints {verb}" in vamba(verb, "--help").output


def test_ls_says_what_is_kept_and_why(run: RunDirectory) -> None:
    assert vamba("pin", "stage2", 10, "--reason", "table 3").exit_code == 0
    listed = json.loads(vamba("ls", "stage2", "--json").output)
    assert [row["step"] for row in listed["checkpoints"]] == [10, 20, 30]
    assert listed["checkpoints"][0]["kept_because"] == "pinned: table 3"
    assert listed["quarantined"] == ["step_00000005.quarantined-1"]
    table = vamba("ls", run.root).output
    assert "pinned: table 3" in table and "step_00000005.quarantined-1: set aside" in table


def test_ls_shows_the_best_evaluation(run: RunDirectory) -> None:
    for step, loss in ((10, 0.5), (20, 0.8), (30, 0.9)):
        run.append_event("evaluated", step=step, evaluation_loss=loss)
    rows = json.loads(vamba("ls", "stage2", "--json").output)["checkpoints"]
    assert [row["kept_because"] for row in rows] == ["the best evaluation", "the retention rule", "the retention rule"]
    assert [row["evaluation_loss"] for row in rows] == [0.5, 0.8, 0.9]
    vamba("gc", "stage2")
    assert "step_00000010" in names(run)


def test_verify_names_the_damage_and_moves_nothing(run: RunDirectory) -> None:
    assert vamba("verify", "stage2").exit_code == 0
    before = names(run)
    (run.checkpoints / "step_00000020" / "__0_0.distcp").write_bytes(b"weights of step 2O")
    result = vamba("verify", "stage2")
    assert result.exit_code == 1
    assert "step_00000020: __0_0.distcp does not have the recorded sha256" in result.output
    assert "step_00000030: whole" in result.output
    assert names(run) == before


def test_gc_removes_what_is_not_needed_and_nothing_else(run: RunDirectory) -> None:
    before = names(run)
    planned = json.loads(vamba("gc", "stage2", "--dry-run", "--json").output)
    assert set(planned["removed"]) == {"step_00000040.tmp", "step_00000005.quarantined-1", "step_00000010"}
    assert planned["removed"]["step_00000040.tmp"] == 5
    assert names(run) == before
    assert vamba("gc", "stage2").exit_code == 0
    assert names(run) == ["step_00000020", "step_00000030"]


def test_gc_leaves_what_is_pinned_until_it_is_unpinned(run: RunDirectory) -> None:
    vamba("pin", "stage2", 10, "--reason", "table 3")
    vamba("gc", "stage2")
    assert "step_00000010" in names(run)
    vamba("unpin", "stage2", 10)
    vamba("gc", "stage2")
    assert names(run) == ["step_00000020", "step_00000030"]


def test_gc_is_refused_while_the_run_trains(run: RunDirectory) -> None:
    before = names(run)
    for held in (exclusive, only_job):  # the job holds it while no worker does
        with held(run):
            result = vamba("gc", "stage2")
        assert result.exit_code != 0
        assert "being trained" in result.output
        assert names(run) == before


def test_an_unknown_step_or_run_is_named(run: RunDirectory) -> None:
    assert "it has 10, 20, 30" in vamba("pin", "stage2", 11, "--reason", "x").output
    assert "There is no run 'stage9'" in vamba("ls", "stage9").output
