"""RayJobs rendered for one run: what the API knows, what the templates promise, and what the run needs."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.submission.manifests import manifest_text
from jobs.submission.plan import Submission
from tests.infra.kustomized import groups, ray_job, templates
from tests.infra.schema_check import check_object
from tests.jobs.submission.cases import CASES, GPUS, WORDS, plan


def _rendered(submission: Submission) -> dict[str, Any]:
    (found,) = (item for item in submission.documents if item["kind"] == "RayJob")
    return found


def _workers(submission: Submission) -> dict[str, Any]:
    return groups(_rendered(submission))[2]


@pytest.mark.parametrize(("verb", "profile"), CASES)
def test_every_job_of_every_profile_has_the_fields_that_its_api_knows(verb: str, profile: str) -> None:
    submission = plan(
        "kuberay", verb, profile=profile, secrets=("hf",), environment={"A": "1"}, image="registry.example.com/vamba:2"
    )
    read_back = list(yaml.safe_load_all(manifest_text(submission.documents, ["a comment"])))
    assert read_back == list(submission.documents)
    for item in read_back:
        check_object(item, "1.30")


@pytest.mark.parametrize(("verb", "profile"), CASES)
def test_all_but_what_is_the_runs_own_is_the_templates(verb: str, profile: str) -> None:
    mine, template = _rendered(plan("kuberay", verb, profile=profile)), copy.deepcopy(ray_job(profile, verb))
    words = "vamba " + " ".join(WORDS[verb]) + ("" if verb == "promote" else " --address auto")
    assert mine["spec"]["entrypoint"] == words.replace("vamba ", f"vamba {verb} ", 1)
    assert mine["metadata"]["labels"].pop("vamba/run") == mine["metadata"]["name"]
    template["metadata"]["name"] = mine["metadata"]["name"]
    template["spec"]["entrypoint"] = mine["spec"]["entrypoint"]
    for _, pod in templates(mine):
        del pod["metadata"]["labels"]["vamba/run"]
    for name in ("replicas", "minReplicas", "maxReplicas"):
        for group, other in zip(groups(mine)[1:], groups(template)[1:], strict=True):
            other[name] = group[name]
    for one in (mine, template):
        one["spec"]["runtimeEnvYAML"] = yaml.safe_load(one["spec"]["runtimeEnvYAML"])
    assert mine == template


@pytest.mark.parametrize("verb", WORDS)
def test_two_runs_of_a_kind_have_names_and_budgets_of_their_own(verb: str) -> None:
    (budget,) = (item for item in plan("kuberay", verb).documents if item["kind"] == "PodDisruptionBudget")
    job = _rendered(plan("kuberay", verb))
    selector = budget["spec"]["selector"]["matchLabels"]
    assert selector["vamba/run"] == job["metadata"]["name"] == budget["metadata"]["name"]
    kept = [t for _, t in templates(job) if selector.items() <= t["metadata"]["labels"].items()]
    assert len(kept) == budget["spec"]["minAvailable"]


def test_the_configuration_says_how_many_nodes() -> None:
    assert _workers(plan("kuberay", words=GPUS, profile="spot"))["replicas"] == 4, "32 GPUs on nodes of 8"
    eight = _workers(plan("kuberay", words=(*GPUS, "--set", "workers.num_workers=9"), profile="prod"))
    assert (eight["minReplicas"], eight["replicas"], eight["maxReplicas"]) == (2, 2, 2)
    words = (*GPUS, "--set", "workers.cpus=16", "--set", "workers.num_workers=16")
    assert _workers(plan("kuberay", words=words, profile="spot"))["replicas"] == 4, "a node has CPUs for four of them"
    scaled = _workers(
        plan("kuberay", profile="dev", words=(*WORDS["train"], "--set", "workers.num_workers=6"), nodes=3)
    )
    assert (scaled["minReplicas"], scaled["maxReplicas"]) == (0, 3)
    assert _workers(plan("kuberay", "ingest", nodes=9))["replicas"] == 9


def test_what_can_never_fit_is_refused_with_both_numbers() -> None:
    with pytest.raises(ValueError, match=r"needs 32 GPUs .*prod has 16 GPUs and 128 CPUs on 2 nodes, room for 16"):
        plan("kuberay", words=GPUS, nodes=2)
    with pytest.raises(ValueError, match=r"needs 32 GPUs.*dev has 0 GPUs.*none with 8 CPUs and 1 GPU"):
        plan("kuberay", words=GPUS, profile="dev")
    with pytest.raises(ValueError, match=r"needs 6 CPUs .*dev has 2 CPUs on 1 node, room for 2"):
        plan("kuberay", words=(*WORDS["train"], "--set", "workers.num_workers=6"), profile="dev")
    elastic = (*GPUS, "--set", "workers.min_workers=8")
    assert _workers(plan("kuberay", words=elastic, nodes=1))["replicas"] == 1, "it may begin with fewer"


@pytest.mark.parametrize(
    ("words", "profile", "message"),
    [
        ((*GPUS, "--set", "workers.num_workers=40"), "prod", "needs 40 GPUs on 5 nodes, .* has 32 GPUs .*on-demand"),
        (
            (*GPUS, "--set", "workers.num_workers=1000"),
            "spot",
            "needs 1000 GPUs on 125 nodes, and the queue has 32 GPUs",
        ),
    ],
)
def test_what_the_queue_would_never_admit_is_refused(words: tuple[str, ...], profile: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan("kuberay", words=words, profile=profile)
    assert _workers(plan("kuberay", words=words, profile=profile, capacity_check=False))["replicas"] >= 4
    assert _workers(plan("kuberay", words=words, profile=profile, queue="larger"))["replicas"] >= 4


def test_the_runs_own_settings_arrive(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text("workers: {num_workers: 1}\n")
    submission = plan(
        "kuberay", words=(*WORDS["train"], "--config", str(mine)), namespace="team", queue="night", secrets=("hf",),
        image="registry.example.com/vamba:2", environment={"NCCL_DEBUG": "INFO"},
    )  # fmt: skip
    assert {item["metadata"]["namespace"] for item in submission.documents} == {"team"}
    job = _rendered(submission)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "night"
    assert yaml.safe_load(job["spec"]["runtimeEnvYAML"])["env_vars"]["NCCL_DEBUG"] == "INFO"
    assert {c["image"] for _, t in templates(job) for c in t["spec"]["containers"]} == {"registry.example.com/vamba:2"}
    for group in groups(job):
        assert {"secretRef": {"name": "hf"}} in group["template"]["spec"]["containers"][0]["envFrom"]
    assert "hf" in submission.secrets
    (files,) = (item for item in submission.documents if item["kind"] == "ConfigMap")
    assert files["data"] == {"0-mine.yaml": mine.read_text()}
    assert "--config /etc/vamba/job/0-mine.yaml" in job["spec"]["entrypoint"]
    driver = groups(job)[1]["template"]["spec"]
    assert {"name": "job", "configMap": {"name": files["metadata"]["name"]}} in driver["volumes"]
    assert {"name": "job", "mountPath": "/etc/vamba/job", "readOnly": True} in driver["containers"][0]["volumeMounts"]
    for item in submission.documents:
        check_object(item, "1.30")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"profile": "test"}, "choose one of dev, prod, spot"),
        ({"profile": "dev", "queue": "night"}, "scale by themselves"),
        ({"nodes": 0}, "at least 1"),
        ({"verb": "promote", "nodes": 2}, "runs in its driver alone"),
        ({"words": (*WORDS["train"], "--here")}, "leave out --address and --here"),
        ({"working_dir": Path("/")}, "templates come with the source tree"),
    ],
)
def test_options_that_contradict_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        plan("kuberay", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": "Foo Bar"},
        {"namespace": "a.b"},
        {"queue": "q!"},
        {"queue": "-q"},
        {"secrets": ("hf", "my secret")},
        {"image": ""},
        {"image": "a b"},
        {"environment": {"PLACE": "$HOME/x"}},
        {"environment": {"PLACE": "`id`"}},
    ],
)
def test_what_kubernetes_would_refuse_or_change_is_refused_here(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(options)).rstrip('s').replace('environment', 'env')} "):
        plan("kuberay", **options)
    plan("kuberay", namespace="a-b", queue="team.night", secrets=("hf.read",), environment={"PLACE": "{a: 1}"})


def test_files_of_any_name_go_along(tmp_path: Path) -> None:
    path = tmp_path / "mein lauf (é).yaml"
    path.write_text("workers: {num_workers: 1}\n")
    submission = plan("kuberay", words=(*WORDS["train"], "--config", str(path)), profile="dev")
    (files,) = (item for item in submission.documents if item["kind"] == "ConfigMap")
    assert (
        list(files["data"]) == ["0-mein_lauf____.yaml"]
        and "/etc/vamba/job/0-mein_lauf____.yaml" in submission.entrypoint
    )
    check_object(files, "1.30")
