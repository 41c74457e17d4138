"""Applying and following RayJobs, with a kubectl that stands in for the real one and writes down what it is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission.kubernetes import Kubernetes
from tests.jobs.submission.cases import plan

NAME = "vamba-train-run7"
# Answers `get rayjob` from a list of states, one after the other, and keeps the last.
_KUBECTL = """#!/usr/bin/env python3
import json, pathlib, sys
here = pathlib.Path(__file__).parent
words = sys.argv[1:]
given = "" if "-" not in words else sys.stdin.read()
with (here / "calls").open("a") as file:
    file.write(json.dumps([words, given]) + "\\n")
if "rayjob" in words and "get" in words:
    if (here / "away").exists():
        left = int((here / "away").read_text()) - 1
        (here / "away").write_text(str(left)) if left else (here / "away").unlink()
        sys.exit("The connection to the server was refused")
    states = json.loads((here / "states").read_text())
    (here / "states").write_text(json.dumps(states[1:] or states))
    print(json.dumps(states[0]) if states[0] else "")
elif "pods" in words:
    print('{"items": [{"metadata": {"name": "head-pod"}}]}')
elif "logs" in words:
    if (here / "pulling").exists():
        (here / "pulling").unlink()
        sys.exit("Error from server (BadRequest): container is waiting to start: ContainerCreating")
    print("and on" if any("--since" in word for word in words) else "step 1 loss 2.0", flush=True)
elif "create" in words and (here / "forbidden").exists():
    sys.exit("Error from server (Forbidden): rayjobs.ray.io is forbidden")
"""


class Cluster:
    """The stand-in, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        (folder / "kubectl").write_text(_KUBECTL)
        (folder / "kubectl").chmod(0o755)

    def has(self, *states: dict[str, Any] | None) -> None:
        (self._folder / "states").write_text(json.dumps(states))

    def forbid(self) -> None:
        (self._folder / "forbidden").touch()

    def pull_once(self) -> None:
        """The first question for a log comes before its container has begun."""
        (self._folder / "pulling").touch()

    def is_away(self, questions: int) -> None:
        """The next questions for the job find nobody."""
        (self._folder / "away").write_text(str(questions))

    def calls(self) -> list[tuple[list[str], str]]:
        lines = (self._folder / "calls").read_text().splitlines()
        return [(words[2:], given) for words, given in map(json.loads, lines)]


def _job(state: str, **status: str) -> dict[str, Any]:
    found = {"jobDeploymentStatus": state, "jobId": "job-1", "rayClusterName": "run7-abc", **status}
    return {"metadata": {"name": NAME}, "spec": {"entrypoint": "vamba train"}, "status": found}


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("jobs.submission.kubernetes._POLL_S", 0.0)
    return Cluster(tmp_path)


def _quiet(text: str) -> None:
    pass


def test_a_new_job_is_created_from_what_a_dry_run_shows(cluster: Cluster) -> None:
    cluster.has(None)
    submission = plan("kuberay")
    assert Kubernetes("vamba").send(submission, check=True, note=_quiet) == NAME
    words, given = cluster.calls()[-1]
    assert words == ["create", "-f", "-"]
    assert list(yaml.safe_load_all(given)) == list(submission.documents)


def test_a_finished_job_is_replaced_and_a_running_one_left_alone(cluster: Cluster) -> None:
    cluster.has(_job("Failed"))
    told: list[str] = []
    Kubernetes("vamba").send(plan("kuberay"), check=True, note=told.append)
    assert [words[0] for words, _ in cluster.calls()] == ["get", "delete", "create"] and "replaced" in told[0]
    cluster.has(_job("Running"))
    with pytest.raises(ValueError, match=f"vamba jobs logs {NAME} --to kuberay --namespace vamba"):
        Kubernetes("vamba").send(plan("kuberay"), check=True, note=_quiet)
    assert [words[0] for words, _ in cluster.calls()][3:] == ["get"]


def test_what_kubernetes_refuses_is_told_in_its_words(cluster: Cluster) -> None:
    cluster.has(None)
    cluster.forbid()
    with pytest.raises(ConnectionError, match="kubectl create failed: .*Forbidden"):
        Kubernetes("vamba").send(plan("kuberay"), check=True, note=_quiet)


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (_job("Complete", jobStatus="SUCCEEDED"), 0),
        (_job("Failed", jobStatus="FAILED", message="Job entrypoint command failed with exit code 3, last logs"), 3),
        (_job("Complete", jobStatus="STOPPED"), 75),
        (_job("Failed", message="deadline exceeded"), 1),
    ],
)
def test_the_log_is_followed_to_the_exit_code(
    cluster: Cluster, capfd: pytest.CaptureFixture[str], last: dict[str, Any], code: int
) -> None:
    again = {**_job("Running"), "status": {**_job("Running")["status"], "jobId": "job-2"}}
    cluster.has(_job("Suspended"), _job("Initializing"), _job("Running"), _job("Retrying"), again, last)
    assert Kubernetes("vamba").follow(NAME, print) == code
    shown = capfd.readouterr().out
    assert "waits for its queue" in shown and shown.count("step 1 loss 2.0") == 2, "of both tries"


def test_a_log_that_has_not_begun_is_asked_for_again(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    cluster.pull_once()
    cluster.has(_job("Running"), _job("Running"), _job("Running"), _job("Complete", jobStatus="SUCCEEDED"))
    assert Kubernetes("vamba").follow(NAME, print) == 0
    assert capfd.readouterr().out.count("step 1 loss 2.0") == 1


def test_a_log_that_is_cut_off_goes_on(cluster: Cluster, capfd: pytest.CaptureFixture[str]) -> None:
    """kubectl ends without an error where a connection is closed, while the job goes on."""
    cluster.has(_job("Running"), _job("Running"), _job("Complete", jobStatus="SUCCEEDED"))
    assert Kubernetes("vamba").follow(NAME, print) == 0
    shown = capfd.readouterr().out
    assert shown.count("step 1 loss 2.0") == shown.count("and on") == 1
    assert [word for words, _ in cluster.calls() for word in words if word.startswith("--since")] == ["--since=1s"]


def test_kubernetes_may_be_away_while_a_job_is_followed(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def show(text: str, **_: object) -> None:
        if "initializing" in text:
            cluster.is_away(2)

    cluster.has(_job("Initializing"), _job("Complete", jobStatus="SUCCEEDED"))
    assert Kubernetes("vamba").follow(NAME, show) == 0
    monkeypatch.setattr("jobs.submission.kubernetes._AWAY_S", 0.0)
    cluster.has(_job("Initializing"))
    with pytest.raises(ConnectionError, match=f"refused. The job may go on: come back with `vamba jobs logs {NAME}"):
        Kubernetes("vamba").follow(NAME, show)


def test_stopping_lets_the_driver_save(cluster: Cluster) -> None:
    cluster.has(_job("Running"))
    assert "save and end" in Kubernetes("vamba").stop(NAME)
    words, _ = cluster.calls()[-1]
    assert words[:8] == ["exec", "head-pod", "-c", "ray-head", "--", "ray", "job", "stop"] and words[-1] == "job-1"
    cluster.has(_job("Suspended"))
    assert "was not running (suspended" in Kubernetes("vamba").stop(NAME) and cluster.calls()[-1][0][:2] == [
        "delete",
        "rayjob",
    ]
    cluster.has(_job("Complete"))
    assert "ended already" in Kubernetes("vamba").stop(NAME)


def test_the_state_is_told_in_words(cluster: Cluster) -> None:
    cluster.has(_job("Suspended", startTime="2026-01-01T00:00:00Z"))
    found = Kubernetes("vamba").status(NAME)
    assert found["state"].startswith("suspended: waits") and found["started"] == "2026-01-01T00:00:00Z"
    cluster.has(None)
    with pytest.raises(ValueError, match="There is no RayJob"):
        Kubernetes("vamba").status(NAME)


def test_without_kubectl_the_manifest_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    call: Callable[[], Any] = lambda: Kubernetes("vamba").status(NAME)  # noqa: E731
    with pytest.raises(ValueError, match="--write job.yaml"):
        call()
