"""SkyPilot jobs rendered for one run, and their scripts, run with programs that stand in for Ray and the job."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission.manifests import manifest_text
from jobs.submission.sent_files import EXCLUDES
from jobs.submission.sky import launch_command
from tests.architecture.sources import ROOT
from tests.infra.locks import LOCKED
from tests.jobs.submission.cases import CASES, GPUS, WORDS, plan
from tests.jobs.submission.sky_fields import unknown_sky_fields

_SHARED = {"VAMBA_NFS": "fs-1.efs:/"}
# Stands in for every program of the scripts: writes down how it was called.
_PROGRAM = """#!/bin/bash
echo "$(basename $0) $@" >> "$RECORD"
case "$*" in *"list nodes"*) echo "[1, 2]";; esac
[ "$(basename $0)" = vamba ] && exit 75
exit 0
"""


def _task(*words: Any, **options: Any) -> dict[str, Any]:
    (document,) = plan("sky", *words, **options).documents
    return document


@pytest.mark.parametrize(("verb", "profile"), CASES)
def test_every_job_of_every_profile_has_the_fields_that_skypilot_documents(verb: str, profile: str) -> None:
    task = _task(verb, profile=profile, infra="aws/us-west-2", image="registry.example.com/vamba:2", secrets=("HF",))
    assert yaml.safe_load(manifest_text([task])) == task
    assert not unknown_sky_fields(task)
    added = "" if verb == "promote" else " --address auto"
    assert task["envs"]["VAMBA_COMMAND"] == f"vamba {verb} {' '.join(WORDS[verb])}{added}"
    assert task["resources"]["use_spot"] == (profile == "spot" and verb != "promote")
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert task["secrets"] == {"RAY_AUTH_TOKEN": None, "HF": None} and task["envs"]["RAY_AUTH_MODE"] == "token"


def test_the_check_finds_what_it_is_for() -> None:
    broken: dict[str, Any] = {
        "num_nodes": "2", "resources": {"acelerators": "H100:8", "cpus": "many"}, "secrets": {"A": "value"},
    }  # fmt: skip
    assert [text.split(":")[0] for text in unknown_sky_fields(broken)] == [
        "task.num_nodes", "task.resources.acelerators", "task.resources.cpus", "task.secrets.A",
    ]  # fmt: skip


def test_machines_follow_the_configuration() -> None:
    task = _task("train", GPUS, profile="spot", environment=_SHARED)
    assert (task["num_nodes"], task["resources"]["accelerators"], task["resources"]["cpus"]) == (4, "H100:8", "66+")
    four = _task("train", (*GPUS, "--set", "workers.num_workers=4"))
    assert (four["num_nodes"], four["resources"]["accelerators"]) == (1, "H100:4")
    other = _task("train", GPUS, accelerators="A100-80GB:4", environment=_SHARED)
    assert (other["num_nodes"], other["resources"]["accelerators"]) == (8, "A100-80GB:4")
    assert "accelerators" not in _task("ingest")["resources"] and _task("ingest", nodes=5)["num_nodes"] == 5
    assert _task("evaluate")["resources"]["accelerators"] == "H100:1"
    with pytest.raises(ValueError, match="needs 32 GPUs .*has 16 GPUs"):
        _task("train", GPUS, nodes=2, environment=_SHARED)
    with pytest.raises(ValueError, match="storage that all of them mount"):
        _task("train", GPUS)
    with pytest.raises(ValueError, match="H100:8"):
        _task("train", GPUS, accelerators="H100:many")


def test_the_command_that_launches_names_secrets_and_holds_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "planted")
    submission = plan("sky", "train", secrets=("HF_TOKEN",))
    command = launch_command(submission, Path("job.yaml"))
    assert command == (
        "sky jobs launch -n vamba-train-run7 --secret RAY_AUTH_TOKEN --secret HF_TOKEN "
        "--secret MLFLOW_TRACKING_PASSWORD job.yaml"
    )
    assert "planted" not in command + manifest_text(submission.documents)


def test_what_is_left_out_is_left_out_there_too() -> None:
    lines = (ROOT / ".skyignore").read_text(encoding="utf-8").splitlines()
    assert tuple(line for line in lines if not line.startswith("#")) == EXCLUDES


def _run(script: str, tmp_path: Path, **environment: str) -> tuple[int, list[str]]:
    record, programs = tmp_path / "record", tmp_path / "home" / "vamba" / "bin"
    programs.mkdir(parents=True)
    for name in ("ray", "vamba", "uv", "sudo", "mountpoint"):
        (programs / name).write_text(_PROGRAM)
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False, cwd=tmp_path,
        env={"PATH": f"{programs}:{os.environ['PATH']}", "HOME": str(tmp_path / "home"), "RECORD": str(record),
             **environment},
    )  # fmt: skip
    assert not done.stderr, done.stderr
    return done.returncode, record.read_text().splitlines()


def test_the_first_machine_waits_for_the_others_and_runs_the_job(tmp_path: Path) -> None:
    task = _task("train")
    variables = {"SKYPILOT_NODE_RANK": "0", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
    code, calls = _run(task["run"], tmp_path, **task["envs"], **variables)
    assert code == 75, "the job's own exit code, which SkyPilot recovers from"
    assert calls[0].startswith("ray start --head --port=6379 --dashboard-host=127.0.0.1")
    assert calls[1].startswith("ray list nodes") and calls[2] == task["envs"]["VAMBA_COMMAND"]
    assert "--dashboard-agent-listen-port=52366" in calls[0], "52365 is that of SkyPilot's own Ray"


def test_the_other_machines_join_the_first(tmp_path: Path) -> None:
    task = _task("train", GPUS, environment=_SHARED)
    variables = {
        "SKYPILOT_NODE_RANK": "1",
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "8",
    }
    code, calls = _run(task["run"], tmp_path, **task["envs"], **variables)
    assert code == 0
    assert calls[-1] == "ray start --address=10.0.0.1:6379 --dashboard-agent-listen-port=52366 --num-gpus=8"


@pytest.mark.parametrize("shared", [True, False])
def test_setup_installs_the_locked_versions_and_mounts_what_is_shared(tmp_path: Path, shared: bool) -> None:
    task = _task("train", environment=_SHARED if shared else {})
    assert f"torch=={LOCKED['torch']}" in task["setup"]
    code, calls = _run(task["setup"].replace("mountpoint -q", "! mountpoint -q"), tmp_path, **task["envs"])
    assert code == 0
    assert any("mount -t nfs4" in call and "fs-1.efs:/ /mnt/vamba" in call for call in calls) == shared
    assert any("-r requirements/cpu.lock" in call for call in calls)
    assert calls[-1].startswith("uv pip install") and calls[-1].endswith("--editable .")
