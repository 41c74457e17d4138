"""The whole way of a version with real servers: register, evaluate, promote, refuse, roll back, pull, export, delete.

MLflow keeps its data in PostgreSQL and its artifacts in S3; models and the audit log lie in S3.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.registry import verification
from pipelines.registry.model_files import hash_model_files
from tests.pipelines.evaluation.needle_data import make_sample, write_dataset
from tests.services.bed import ARTIFACTS, AUDIT, Bed
from tests.services.commands import aliases, tags, vamba, vamba_json, versions

pytestmark = [pytest.mark.services, pytest.mark.slow]

GATES = """\
gate:
  thresholds: [{metric: overall, at_least: 0.0}]
  max_unparsed: 1.0
  min_coverage: 0.5
  control_margin: 0.75
"""


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    path = tmp_path / "gates.yaml"
    path.write_text(GATES)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", [make_sample(f"clip-{i}", num_frames=4, num_questions=2) for i in range(3)])
    return tmp_path / "data"


def evaluate(model: str, data: Path) -> None:
    vamba("evaluate", model, "--data", data)
    vamba("evaluate", model, "--data", data, "--control", "shuffled-video")


def test_from_a_run_to_the_champion(
    bed: Bed, bucket: str, name: str, make_run: Callable[..., Path], gates: Path, data: Path, tmp_path: Path
) -> None:
    run = make_run("stage2")
    expected = hash_model_files(run / "model")
    vamba("register", "stage2", "--as", name)
    refused = vamba("promote", f"{name}/1", "--to", "champion", "--gates", gates, code=3)
    assert "FAIL" in refused.output and aliases(bed, name) == {}
    evaluate(f"models:/{name}/1", data)
    for alias in ("challenger", "champion"):
        vamba("promote", f"{name}/1", "--to", alias, "--gates", gates)
    assert aliases(bed, name) == {"challenger": 1, "champion": 1}

    # The database, read directly: an address, the lineage, both decisions.
    (source,) = versions(bed, name).values()
    assert source.startswith(f"s3://{bucket}/models/{name}/")
    found = tags(bed, name, 1)
    assert (found["run"], found["model_digest"]) == ("stage2", expected.digest)
    assert json.loads(found["checkpoint_files"]) == expected.sha256
    assert found["promotion.challenger.decision"] == found["promotion.champion.decision"] == "promoted"
    mlflow_run = json.loads((run / "run.json").read_text())["mlflow_run_id"]
    metrics = {key for (key,) in bed.database.rows("SELECT key FROM latest_metrics WHERE run_uuid = %s", mlflow_run)}
    assert any(key.endswith("overall") or "accuracy" in key for key in metrics), metrics

    # The evidence went through the server into S3; the model did not.
    keys = [key for key in bed.s3.keys(ARTIFACTS) if mlflow_run in key]
    decisions = [json.loads(_read(bed, ARTIFACTS, key)) for key in keys if "/promotions/" in key]
    assert sorted(item["decision"] for item in decisions) == ["promoted", "promoted", "refused"]
    assert sum(key.endswith("evaluation.json") for key in keys) == 2
    assert not [key for key in bed.s3.keys(ARTIFACTS) if key.endswith((".safetensors", "tokenizer.json"))]
    kept = [json.loads(_read(bed, AUDIT, key)) for key in bed.s3.keys(AUDIT, "evidence/")]
    assert all(decision in kept for decision in decisions)

    shown = vamba_json("history", name, "--verify")
    assert shown["problems"] == []
    actions = [entry["action"] for entry in shown["entries"]]
    assert actions == ["version.register", "promotion.refuse", *["alias.begin", "alias.move"] * 2]
    log = [json.loads(line) for line in _read(bed, AUDIT, "audit.jsonl").decode().splitlines()]
    assert [line["action"] for line in log if line["model"] == name] == actions

    vamba("pull", f"{name}@champion", tmp_path / "pulled")
    assert hash_model_files(tmp_path / "pulled").sha256 == expected.sha256
    vamba("export", f"{name}@champion", tmp_path / "released", "--dtype", "bfloat16")
    assert (tmp_path / "released" / "config.json").is_file()
    assert "is challenger, champion" in vamba("models", "delete", f"{name}/1", "--reason", "tidy", code=2).output


def test_damage_in_the_store_is_refused_and_rollback_looks_again(
    bed: Bed, bucket: str, name: str, make_run: Callable[..., Path], gates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verification, "load_problem", lambda directory: "")
    for number in (0, 1):
        make_run(f"run{number}", number)
        vamba("register", f"run{number}", "--as", name)
    sources = versions(bed, name)
    forced = ("--force", "--reason", "no evaluation in this test", "--gates", gates)
    whole = damage(bed, sources[2])
    refused = vamba("promote", f"{name}/2", *forced, code=3)
    assert "model.safetensors is changed" in refused.output and aliases(bed, name) == {}
    assert tags(bed, name, 2)["promotion.champion.decision"] == "refused"
    restore(bed, sources[2], whole)

    for number in (1, 2):
        vamba("promote", f"{name}/{number}", *forced)
    assert aliases(bed, name) == {"champion": 2}
    whole = damage(bed, sources[1])
    refused = vamba("rollback", name, "--reason", "slow", code=3)
    assert "model.safetensors is changed" in refused.output and aliases(bed, name) == {"champion": 2}
    restore(bed, sources[1], whole)
    vamba("rollback", name, "--reason", "slow")
    assert aliases(bed, name) == {"champion": 1}
    assert tags(bed, name, 1)["promotion.champion.decision"] == "rolled back"

    vamba("models", "delete", f"{name}/2", "--reason", "never again")
    assert set(versions(bed, name)) == {1}
    assert bed.s3.keys(bucket, sources[2].removeprefix(f"s3://{bucket}/")), "its files stay"
    assert vamba_json("history", name, "--verify")["problems"] == []


def damage(bed: Bed, source: str) -> bytes:
    """Change one bit of a model's weights where they are stored; returns what they were."""
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    whole = _read(bed, bucket, f"{prefix}/model.safetensors")
    restore(bed, source, whole[:-1] + bytes([whole[-1] ^ 1]))
    return whole


def restore(bed: Bed, source: str, content: bytes) -> None:
    bucket, _, prefix = source.removeprefix("s3://").partition("/")
    bed.s3.client.put_object(Bucket=bucket, Key=f"{prefix}/model.safetensors", Body=content)


def _read(bed: Bed, bucket: str, key: str) -> bytes:
    return bytes(bed.s3.client.get_object(Bucket=bucket, Key=key)["Body"].read())
