"""Force, approvals, rollback, deletion, pull and the check of the record, against a real MLflow registry on SQLite."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipelines.registry import history
from pipelines.registry.anchor import HEAD_TAG, AuditLogElsewhere
from pipelines.registry.approvals import approve
from pipelines.registry.audit import LOG_NAME, open_audit_log
from pipelines.registry.audit_check import find_problems
from pipelines.registry.comparison import compare_versions
from pipelines.registry.config import GateConfig, PromotionConfig
from pipelines.registry.deletion import VersionInUse, delete_version
from pipelines.registry.models import resolve_model
from pipelines.registry.outcome import PromotionOutcome
from pipelines.registry.promote import promote
from pipelines.registry.pull import FilesChanged, export, pull
from pipelines.registry.register import register_model
from pipelines.registry.rollback import roll_back
from pipelines.registry.tracking import open_client
from tests.pipelines.evaluation.needle_data import write_model


def forced(target: str, alias: str = "champion", gate: GateConfig | None = None) -> PromotionOutcome:
    """There is no evaluation here, so nothing passes."""
    config = PromotionConfig(target=target, alias=alias, gate=gate or GateConfig())
    return promote(config, force=True, reason="no evaluation in this test")


def champion() -> str:
    return str(open_client().get_registered_model("toy").aliases.get("champion", ""))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three models, made once."""
    folder = tmp_path_factory.mktemp("models")
    return [write_model(folder / str(number), seed=number) for number in (1, 2, 3)]


@pytest.fixture
def versions(run: Path, vamba_home: Path, models: list[Path]) -> list[Path]:
    """Three versions of `toy`, each of a run of its own."""
    folders = []
    for number in (1, 2, 3):
        folder = vamba_home / "runs" / f"run{number}"
        shutil.copytree(models[number - 1], folder / "model")
        record = json.loads((run / "run.json").read_text())
        (folder / "run.json").write_text(json.dumps({**record, "name": folder.name}))
        assert register_model(folder.name, "toy").version == str(number)
        folders.append(folder / "model")
    return folders


def flip_a_bit(model: Path) -> None:
    weights = model / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def test_force_needs_a_reason_and_is_recorded_with_what_failed(versions: list[Path]) -> None:
    with pytest.raises(ValueError, match="reason"):
        promote(PromotionConfig(target="toy/1"), force=True)
    outcome = forced("toy/1")
    assert (outcome.decision, outcome.moved, outcome.passed, champion()) == ("forced", True, False, "1")
    line = open_audit_log().entries()[-1].body
    assert line["reason"] == "no evaluation in this test" and "evaluation" in line["failed"]
    evidence = open_audit_log().kept(line["evidence"])
    assert evidence["decision"] == "forced" and len(evidence["checks"]) == len(outcome.report.checks)
    tags = open_client().get_model_version("toy", "1").tags
    assert tags["promotion.champion.reason"] == "no evaluation in this test"


def test_force_does_not_reach_files_that_are_not_the_versions(versions: list[Path]) -> None:
    flip_a_bit(versions[0])
    outcome = forced("toy/1")
    assert (outcome.decision, outcome.moved, champion()) == ("refused", False, "")


def test_every_decision_leaves_its_evidence_as_an_artifact(versions: list[Path]) -> None:
    forced("toy/1")
    assert promote(PromotionConfig(target="toy/2")).decision == "refused"
    client = open_client()
    experiment = client.get_experiment_by_name("vamba")
    runs = client.search_runs([experiment.experiment_id])
    documents = [item.path for made in runs for item in client.list_artifacts(made.info.run_id, "promotions")]
    assert len(documents) == 2


def test_approvals_count_for_others_than_who_registered(
    versions: list[Path], monkeypatch: pytest.MonkeyPatch, vamba_home: Path
) -> None:
    monkeypatch.setenv("VAMBA_ACTOR", "Ada")
    write_model(vamba_home / "runs" / "stage2" / "model", seed=9)
    assert register_model("stage2", "toy").version == "4"
    gate = GateConfig(require_control=False, min_approvals=2)

    def approvals() -> tuple[bool, str]:
        report = promote(PromotionConfig(target="toy/4", gate=gate), dry_run=True).report
        check = next(check for check in report.checks if check.name == "approvals")
        return check.passed, check.found

    assert approvals() == (False, "0 (nobody)")
    approve("toy/4", by="ada", reason="I made it")
    approve("toy/4", by="Grace", reason="read the answers")
    approve("toy/4", by="grace ", reason="again")
    assert approvals() == (False, "1 (Grace)")
    approve("toy/4", by="Edsger", reason="looked at the gate")
    assert approvals() == (True, "2 (Grace, Edsger)")
    lines = [entry.body for entry in open_audit_log().entries() if entry.body["action"] == "version.approve"]
    assert [(line["by"], line["actor"]) for line in lines] == [("ada", "Ada"), ("Grace", "Ada"), ("Edsger", "Ada")]
    with pytest.raises(ValueError, match="--reason"):
        approve("toy/4", by="Grace", reason=" ")
    with pytest.raises(ValueError, match="NAME/VERSION"):
        approve("toy", by="Grace", reason="fine")


def test_rollback_goes_back_one_version_at_a_time(versions: list[Path]) -> None:
    for number in (1, 2, 3):
        forced(f"toy/{number}")
    assert (roll_back("toy", reason="slow").version, champion()) == ("2", "2")
    assert open_audit_log().entries()[-1].body["decision"] == history.ROLLED_BACK
    assert (roll_back("toy").version, champion()) == ("1", "1")
    with pytest.raises(ValueError, match="No version held champion of toy before"):
        roll_back("toy")
    assert (roll_back("toy", to="3").version, champion()) == ("3", "3")
    before = open_audit_log().entries()
    assert not roll_back("toy", to="3").moved and open_audit_log().entries() == before
    assert find_problems("toy") == []


def test_rollback_refuses_a_version_whose_files_changed(versions: list[Path]) -> None:
    for number in (1, 2):
        forced(f"toy/{number}")
    flip_a_bit(versions[0])
    outcome = roll_back("toy")
    assert (outcome.decision, outcome.moved, champion()) == ("refused", False, "2")
    assert "model.safetensors is changed" in outcome.report.failed[0].found
    assert open_audit_log().entries()[-1].body["action"] == history.REFUSE


def test_a_killed_rollback_is_completed_by_the_same_command(
    versions: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    class Killed(BaseException):
        pass

    for number in (1, 2):
        forced(f"toy/{number}")
    whole = MlflowClient.set_model_version_tag

    def kill(self: object, *arguments: object) -> None:
        raise Killed

    monkeypatch.setattr(MlflowClient, "set_model_version_tag", kill)
    with pytest.raises(Killed):
        roll_back("toy")
    assert champion() == "1" and find_problems("toy")
    monkeypatch.setattr(MlflowClient, "set_model_version_tag", whole)
    assert roll_back("toy").version == "1" and champion() == "1" and find_problems("toy") == []
    actions = [entry.body["action"] for entry in open_audit_log().entries()][-4:]
    assert actions == [history.BEGIN, history.INTERRUPT, history.BEGIN, history.MOVE]


def test_aliased_and_parent_versions_are_not_deleted(versions: list[Path], vamba_home: Path) -> None:
    forced("toy/1", "challenger")
    with pytest.raises(VersionInUse, match="challenger"):
        delete_version("toy/1", reason="tidy")
    child = vamba_home / "runs" / "child"
    write_model(child / "model", seed=5)
    weights = resolve_model("models:/toy/2").lineage["weights_digest"]
    start = {"ref": "run2", "source": str(versions[1]), "directory": str(versions[1]), "digest": weights, "files": {}}
    (child / "run.json").write_text(json.dumps({"name": "child", "start_model": start}))
    register_model("child", "other")
    with pytest.raises(VersionInUse, match="other/1 started from"):
        delete_version("toy/2", reason="tidy")
    with pytest.raises(ValueError, match="--reason"):
        delete_version("toy/3", reason="")
    source = delete_version("toy/3", reason="never used")
    assert source == versions[2].as_uri() and versions[2].is_dir()
    left = {str(item.version) for item in open_client().search_model_versions("name = 'toy'")}
    assert left == {"1", "2"} and find_problems("toy") == []


def test_the_check_sees_a_cut_end_a_changed_line_lost_evidence_and_a_moved_alias(
    versions: list[Path], vamba_home: Path
) -> None:
    forced("toy/1")
    assert find_problems("toy") == []
    path = vamba_home / "audit" / LOG_NAME
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))
    assert any("lacks line 5" in problem for problem in find_problems("toy"))
    path.write_bytes(b"".join(lines[:-1]) + lines[-1].replace(b"no evaluation", b"all is well!!"))
    assert any("lacks line 5" in problem for problem in find_problems("toy"))
    path.write_bytes(whole)
    for document in (vamba_home / "audit" / "evidence").iterdir():
        document.unlink()
    assert any("is missing" in problem for problem in find_problems("toy"))
    open_client().set_registered_model_alias("toy", "champion", "2")
    assert any("points at 2, and by the log at 1" in problem for problem in find_problems("toy"))


def test_pull_copies_what_was_registered_and_nothing_else(versions: list[Path], tmp_path: Path) -> None:
    forced("toy/2")
    written = pull("toy@champion", tmp_path / "out")
    assert written.ref == "models:/toy/2"
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in versions[1].iterdir()}
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == (versions[1] / "model.safetensors").read_bytes()
    flip_a_bit(versions[1])
    with pytest.raises(FilesChanged, match="model.safetensors is changed"):
        pull("toy@champion", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_export_writes_the_release_layout_in_the_type_asked_for(versions: list[Path], tmp_path: Path) -> None:
    import torch

    from vamba.model.pretrained import FLOAT32_PARTS, from_pretrained, read_tensors

    export("toy/1", tmp_path / "release", dtype="bfloat16", max_shard_bytes=100_000)
    assert len(list((tmp_path / "release").glob("model-*-of-*.safetensors"))) > 1
    original = dict(read_tensors(versions[0]))
    for name, tensor in read_tensors(tmp_path / "release"):
        expected = torch.float32 if name.rpartition(".")[2] in FLOAT32_PARTS else torch.bfloat16
        assert tensor.dtype == expected and torch.equal(tensor, original[name].to(expected))
    assert from_pretrained(tmp_path / "release").config.num_hidden_layers > 0
    with pytest.raises(ValueError, match="no floating type"):
        export("toy/1", tmp_path / "x", dtype="int8", max_shard_bytes=10**9)


def test_two_versions_are_compared_by_what_differs(versions: list[Path]) -> None:
    found = compare_versions("toy/1", "toy/3")
    assert (found.first, found.second) == ("toy/1", "toy/3")
    assert found.tags["run"] == ("run1", "run3") and "manifest_digest" not in found.tags
    assert found.files == ("model.safetensors is changed",)


def test_a_registration_that_was_killed_before_its_line_gets_it_later(versions: list[Path], vamba_home: Path) -> None:
    client = open_client()
    (vamba_home / "audit" / LOG_NAME).unlink()
    with pytest.raises(AuditLogElsewhere):
        register_model("run1", "toy")
    client.delete_registered_model_tag("toy", HEAD_TAG)
    assert not register_model("run1", "toy").created
    assert not register_model("run1", "toy").created
    assert [entry.body["action"] for entry in open_audit_log().entries()] == [history.REGISTER]
