"""Registration, gate and promotion against a real MLflow registry on SQLite."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.job import run_evaluation
from pipelines.registry.audit import open_audit_log
from pipelines.registry.checks import Check
from pipelines.registry.config import GateConfig, NoWorse, PromotionConfig, Threshold
from pipelines.registry.listing import list_versions
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.models import ModelNotFoundError, resolve_model
from pipelines.registry.promote import promote
from pipelines.registry.pull import export, pull
from pipelines.registry.register import register_model
from pipelines.registry.tracking import open_client
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset, write_model

LENIENT = GateConfig(
    thresholds=(Threshold(metric="overall", at_least=0.0),), max_unparsed=1.0, control_margin=0.75, min_coverage=0.5
)
STRICT = GateConfig(thresholds=(Threshold(metric="overall", at_least=1.0, min_questions=1000),), max_unparsed=1.0)


def failed(checks: Sequence[Check]) -> set[str]:
    return {check.name for check in checks if not check.passed}


def test_a_version_carries_the_lineage_of_its_run(run: Path) -> None:
    version = register_model("stage2", "toy")
    tags = open_client().get_model_version("toy", version.version).tags
    assert (tags["run"], tags["manifest_digest"], tags["config_digest"]) == ("stage2", "sha256:d", "sha256:c")
    assert (tags["git_commit"], tags["git_dirty"]) == ("1234", "false")
    assert set(json.loads(tags["checkpoint_files"])) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert tags["environment_digest"].startswith("sha256:")


def test_registering_twice_gives_one_version(run: Path) -> None:
    assert register_model("stage2", "toy").created
    again = register_model("stage2", "toy")
    assert (again.version, again.created) == ("1", False)
    write_model(run / "model", seed=1)
    assert register_model("stage2", "toy").version == "2"


def test_references_lead_to_the_same_directory(run: Path) -> None:
    register_model("stage2", "toy")
    open_client().set_registered_model_alias("toy", "champion", "1")
    expected = (run / "model").resolve()
    for reference in ("stage2", str(run / "model"), "models:/toy/1", "models:/toy@champion"):
        assert resolve_model(reference).directory.resolve() == expected
    assert resolve_model("models:/toy@champion").lineage["version"] == "1"


@pytest.mark.parametrize("reference", ["nothing", "models:/toy/7", "models:/toy@nobody", "models:/toy"])
def test_an_unknown_model_is_named_in_the_error(run: Path, reference: str) -> None:
    with pytest.raises(ModelNotFoundError, match="toy|nothing"):
        resolve_model(reference)


def test_a_passing_version_gets_the_alias_and_a_record(evaluated: Path, vamba_home: Path) -> None:
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    assert outcome.passed and outcome.moved and outcome.previous == ""
    client = open_client()
    assert str(client.get_model_version_by_alias("toy", "champion").version) == "1"
    assert client.get_model_version("toy", "1").tags["promotion.champion.decision"] == "promoted"
    lines = [entry.body for entry in open_audit_log().entries()]
    assert [line["action"] for line in lines] == ["version.register", "alias.begin", "alias.move"]
    decision = open_audit_log().kept(lines[-1]["evidence"])
    assert decision["decision"] == "promoted" and len(decision["evaluations"]) == 2
    assert (vamba_home / "audit" / "audit.jsonl").is_file()
    assert [row.aliases for row in list_versions()] == [("champion",)]


def test_promoting_the_holder_again_changes_and_records_nothing(evaluated: Path, vamba_home: Path) -> None:
    promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    before = open_audit_log().entries()
    again = promote(PromotionConfig(target="toy/1", gate=LENIENT))
    assert again.passed and not again.moved
    assert open_audit_log().entries() == before


def test_a_refusal_tells_every_reason_moves_nothing_and_is_recorded(evaluated: Path, vamba_home: Path) -> None:
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=STRICT))
    assert not outcome.passed and not outcome.moved
    assert "overall" in failed(outcome.report.checks)
    assert open_client().get_registered_model("toy").aliases == {}
    tags = open_client().get_model_version("toy", "1").tags
    assert tags["promotion.champion.decision"] == "refused" and "overall" in tags["promotion.champion.failed"]
    line = open_audit_log().entries()[-1].body
    assert (line["action"], line["decision"]) == ("promotion.refuse", "refused") and "overall" in line["failed"]
    assert open_audit_log().kept(line["evidence"])["checks"]


def test_the_record_names_the_champion_before(evaluated: Path, tmp_path: Path) -> None:
    promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    write_model(evaluated / "model", seed=1)
    for control in (False, True):
        run_evaluation(
            EvaluationConfig(model="stage2", data=str(tmp_path / "data"), shuffle_videos=control, log_to_mlflow=False)
        )
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    assert (outcome.version, outcome.previous, outcome.moved) == ("2", "1", True)
    assert open_client().get_model_version("toy", "2").tags["promotion.champion.previous"] == "1"


def test_a_changed_checkpoint_is_refused(evaluated: Path) -> None:
    register_model("stage2", "toy")
    weights = evaluated / "model" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    outcome = promote(PromotionConfig(target="toy/1", gate=LENIENT))
    assert {"checkpoint files", "loads and generates"} <= failed(outcome.report.checks)


def test_without_evidence_nothing_is_promoted(run: Path) -> None:
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    assert {"evaluation", "control: shuffled video"} <= failed(outcome.report.checks)


def test_a_subset_passes_no_gate(run: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [make_sample(f"clip-{i}", num_frames=4, num_questions=2) for i in range(3)])
    for control in (False, True):
        run_evaluation(
            EvaluationConfig(
                model="stage2",
                data=str(tmp_path / "data"),
                num_questions=3,
                shuffle_videos=control,
                log_to_mlflow=False,
            )
        )
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    assert failed(outcome.report.checks) == {"whole split"}


def test_a_control_above_its_ceiling_is_refused(evaluated: Path) -> None:
    strict_control = GateConfig(thresholds=LENIENT.thresholds, max_unparsed=1.0, control_margin=-0.25)
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=strict_control))
    control = next(check for check in outcome.report.checks if check.name.startswith("control"))
    assert control.passed == control.found.startswith("0.0%")


def test_a_dry_run_judges_without_registering(evaluated: Path, vamba_home: Path) -> None:
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT), dry_run=True)
    assert outcome.passed and not outcome.moved and outcome.version == ""
    assert list_versions() == []
    assert not (vamba_home / "audit").exists()


def test_a_run_needs_a_name_to_be_registered_as(run: Path) -> None:
    with pytest.raises(ValueError, match="--as NAME"):
        promote(PromotionConfig(target="stage2", gate=LENIENT))


def test_a_server_is_not_given_a_local_directory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(ValueError, match="takes no local"):
        register_model("stage2", "toy")


def test_a_second_version_is_compared_with_the_champion(evaluated: Path, tmp_path: Path) -> None:
    promote(PromotionConfig(target="stage2", register_as="toy", gate=LENIENT))
    write_model(evaluated / "model", seed=1)
    compared = replace(LENIENT, require_control=False, no_worse=NoWorse(max_drop=1.0))
    run_evaluation(EvaluationConfig(model="stage2", data=str(tmp_path / "data"), log_to_mlflow=False))
    outcome = promote(PromotionConfig(target="stage2", register_as="toy", gate=compared))
    names = {check.name for check in outcome.report.checks}
    assert outcome.moved and {"no worse than champion", "no worse than champion: colour"} <= names
    stricter = replace(compared, no_worse=NoWorse(max_drop=1.0, min_videos=50))
    back = promote(PromotionConfig(target="toy/1", gate=stricter))
    assert back.decision == "refused" and "no worse than champion: shape" in failed(back.report.checks)


@pytest.mark.parametrize("alias", ["", "latest", "Latest", "v1", "V1", "12", "a b", "a/b", "a.b", "x" * 256])
def test_aliases_that_mlflow_does_not_take_are_refused_before_anything_is_done(alias: str) -> None:
    with pytest.raises(ValueError, match="can't be used"):
        PromotionConfig(target="toy/1", alias=alias)


def test_a_versions_files_are_not_written_over(run: Path, tmp_path: Path) -> None:
    register_model("stage2", "toy")
    other = write_model(tmp_path / "other", seed=1)
    before = hash_model_files(run / "model")
    for write in (lambda: export(str(other), run / "model", dtype=None, max_shard_bytes=10**9),
                  lambda: pull("toy/1", run / "model")):  # fmt: skip
        with pytest.raises(ValueError, match="holds the files of toy/1"):
            write()
    assert hash_model_files(run / "model") == before


def test_a_new_registry_is_made_by_one_process_at_a_time(vamba_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow's migrations of two processes fail over each other: the lock is held while it opens the file."""
    held = []

    class Client:
        def __init__(self, **_: str) -> None:
            with (vamba_home / ".mlflow.db.lock").open() as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
            held.append(True)

        def get_experiment_by_name(self, name: str) -> None:
            pass

    monkeypatch.setattr("mlflow.MlflowClient", Client)
    open_client()
    assert held
    with (vamba_home / ".mlflow.db.lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
