"""The deployment files are what Ray and Kubernetes accept, as far as that can be seen without a cluster."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.architecture.sources import ROOT

CLUSTER = ROOT / "ray_cluster.yaml"
KUBERAY = ROOT / "infra" / "kuberay"
MANIFESTS = sorted((KUBERAY / "base").glob("*.yaml"))
LOCKED = dict(
    re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "requirements" / "cpu.lock").read_text(), flags=re.MULTILINE)
)


def _cluster() -> dict[str, Any]:
    loaded = yaml.safe_load(CLUSTER.read_text(encoding="utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def _ray_jobs() -> list[dict[str, Any]]:
    documents = [item for path in MANIFESTS for item in yaml.safe_load_all(path.read_text(encoding="utf-8"))]
    return [item for item in documents if item["kind"] == "RayJob"]


def _groups(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def test_ray_accepts_the_cluster_file() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(_cluster()))


def test_the_head_is_on_demand_and_the_gpu_pool_is_spot() -> None:
    cluster = _cluster()
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0, "the head runs no tasks"
    gpu_types = [node for node in types.values() if node["resources"].get("GPU")]
    assert gpu_types
    for node in gpu_types:
        assert node["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
        assert node["docker"]["worker_image"].endswith("-gpu")
    cpu_only = [n for n in types.values() if not n["resources"].get("GPU") and n["resources"]["CPU"]]
    assert cpu_only, "ingest needs a pool of its own"


def test_node_limits_are_consistent() -> None:
    cluster = _cluster()
    for name, node in cluster["available_node_types"].items():
        assert 0 <= node["min_workers"] <= node["max_workers"] <= cluster["max_workers"], name
    assert sum(n["max_workers"] for n in cluster["available_node_types"].values()) <= cluster["max_workers"]


def test_images_carry_the_locked_ray_version() -> None:
    cluster = _cluster()
    images = [cluster["docker"]["image"]]
    images += [n["docker"]["worker_image"] for n in cluster["available_node_types"].values() if "docker" in n]
    assert all(image.split(":")[1].startswith(LOCKED["ray"] + "-py311") for image in images), images
    assert {job["spec"]["rayClusterSpec"]["rayVersion"] for job in _ray_jobs()} == {LOCKED["ray"]}


def test_token_auth_is_set_wherever_ray_starts() -> None:
    cluster = _cluster()
    starts = [
        command
        for key in ("head_start_ray_commands", "worker_start_ray_commands")
        for command in cluster[key]
        if "ray start" in command
    ]
    assert len(starts) == 2 and all("RAY_AUTH_MODE=token" in command for command in starts)
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    assert all(job["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token"} for job in _ray_jobs())


def test_ray_jobs_follow_the_rules_of_the_platform() -> None:
    jobs = _ray_jobs()
    assert {job["metadata"]["name"] for job in jobs} == {"vamba-ingest", "vamba-train"}
    for job in jobs:
        spec = job["spec"]
        assert job["apiVersion"] == "ray.io/v1"
        assert spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0
        assert spec["activeDeadlineSeconds"] > 0 and spec["backoffLimit"] >= 1
        assert spec["entrypoint"].startswith("vamba ")
        assert yaml.safe_load(spec["runtimeEnvYAML"])
        assert spec["rayClusterSpec"]["autoscalerOptions"]["version"] == "v2"
        assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_pods_are_confined_and_bounded() -> None:
    for job in _ray_jobs():
        for group in _groups(job):
            pod = group["template"]["spec"]
            assert pod["securityContext"]["runAsNonRoot"] is True
            (container,) = pod["containers"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
            assert re.fullmatch(r"vamba:\d+\.\d+\.\d+-(cpu|gpu)", container["image"])
            mounted = {mount["name"] for mount in container["volumeMounts"]}
            assert mounted == {volume["name"] for volume in pod["volumes"]}
            (shm,) = (volume for volume in pod["volumes"] if volume["name"] == "shm")
            assert shm["emptyDir"]["medium"] == "Memory"


def test_workers_drain_before_kubernetes_ends_them() -> None:
    for job in _ray_jobs():
        for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
            pod = group["template"]["spec"]
            drain = {item["name"]: item["value"] for item in pod["containers"][0]["env"]}
            assert int(drain["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < pod["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("folder", sorted(path.parent for path in KUBERAY.rglob("kustomization.yaml")), ids=str)
def test_kustomizations_name_files_that_exist(folder: Path) -> None:
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    assert kustomization["kind"] == "Kustomization"
    for resource in kustomization["resources"]:
        assert (folder / resource).resolve().exists(), resource
    for patch in kustomization.get("patches", []):
        assert all({"op", "path"} <= set(operation) for operation in yaml.safe_load(patch["patch"]))


def test_the_dockerfile_is_pinned_and_ends_without_root() -> None:
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text(encoding="utf-8")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    final = {stage.split("\n")[0].split(" AS ")[1]: stage for stage in stages}
    assert {"cpu", "gpu"} <= set(final)
    for name in ("cpu", "gpu"):
        users = re.findall(r"^USER (.+)$", final[name], flags=re.MULTILINE)
        assert users and users[-1] == "1000:1000"
    images = re.findall(r"^(?:FROM|ARG \w+_IMAGE=)(?: |)([\w./-]+:[\w.-]+)", text, flags=re.MULTILINE)
    assert images and not any(image.endswith(":latest") for image in images)
    assert set(re.findall(r"torch==([\d.]+)", text)) == {LOCKED["torch"]}


def test_the_bundled_pip_is_the_locked_one() -> None:
    (wheel,) = (ROOT / "scripts" / "bootstrap").glob("pip-*.whl")
    assert wheel.name == f"pip-{LOCKED['pip']}-py3-none-any.whl"
    assert wheel.name in CLUSTER.read_text(encoding="utf-8")


def test_shell_scripts_parse() -> None:
    for script in (ROOT / "scripts" / "setup.sh", ROOT / ".ci" / "run"):
        subprocess.run(["bash", "-n", str(script)], check=True, timeout=20)
