"""The rules that the rendered Kubernetes objects follow: what may be lost, what may be written, who reaches whom."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.infra.kustomized import JOBS, OVERLAYS, groups, ray_job, rendered, templates
from tests.infra.locks import LOCKED

SECRETS = {"vamba-storage", "vamba-mlflow", "vamba-mlflow-auth", "vamba-mlflow-client", "vamba-postgres", "vamba-redis"}
CASES = [(overlay, job) for overlay in OVERLAYS for job in JOBS]


def _all_objects() -> list[dict[str, Any]]:
    folders = [*(f"overlays/{name}" for name in OVERLAYS), *(f"overlays/{o}/{j}" for o, j in CASES)]
    return [item for folder in folders for item in rendered(folder)]


def _containers() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    return [
        (f"{where} {container['name']}", template["spec"], container)
        for item in _all_objects()
        for where, template in templates(item)
        for container in template["spec"]["containers"]
    ]


@pytest.mark.parametrize(("overlay", "job"), CASES)
def test_a_run_is_one_job_that_cleans_up_and_comes_back(overlay: str, job: str) -> None:
    spec = ray_job(overlay, job)["spec"]
    assert (
        spec["shutdownAfterJobFinishes"] and spec["ttlSecondsAfterFinished"] > 0 and spec["activeDeadlineSeconds"] > 0
    )
    assert spec["entrypoint"].startswith(f"vamba {job} ")
    assert ("--address auto" in spec["entrypoint"]) == (job != "promote"), "promotion needs no Ray"
    assert spec["backoffLimit"] >= (0 if job == "promote" else 1)
    assert yaml.safe_load(spec["runtimeEnvYAML"])["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"] == "60"
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == LOCKED["ray"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert set(cluster["gcsFaultToleranceOptions"]["redisPassword"]["valueFrom"]) == {"secretKeyRef"}


@pytest.mark.parametrize(("overlay", "job"), CASES)
def test_the_driver_has_a_node_of_its_own_that_takes_nothing_else(overlay: str, job: str) -> None:
    from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr

    cluster = ray_job(overlay, job)["spec"]["rayClusterSpec"]
    custom = {"metadata": {"name": "x", "namespace": "y"}, "spec": cluster}
    types = _derive_autoscaling_config_from_ray_cr(custom)["available_node_types"]
    head, driver = types["headgroup"]["resources"], types["driver"]["resources"]
    assert head["CPU"] == 0 and "driver" not in head, "as Ray's own autoscaler reads it"
    assert driver["CPU"] == 0 and driver["driver"] == 1
    assert ray_job(overlay, job)["spec"]["entrypointResources"] == '{"driver": 1}'
    others = {name: kind["resources"] for name, kind in types.items() if name not in ("headgroup", "driver")}
    assert all("driver" not in resources and resources["CPU"] > 0 for resources in others.values())
    gpus = sum(resources.get("GPU", 0) for resources in others.values())
    assert (gpus > 0) == (job in ("train", "evaluate") and overlay != "dev")
    images = {container["image"] for _, t in templates(ray_job(overlay, job)) for container in t["spec"]["containers"]}
    assert images == {"vamba:0.1.0-gpu" if gpus else "vamba:0.1.0-cpu"}, "one interpreter for the whole cluster"


@pytest.mark.parametrize("job", JOBS)
def test_jobs_scale_by_themselves_unless_a_queue_admits_them(job: str) -> None:
    cluster = ray_job("dev", job)["spec"]["rayClusterSpec"]
    assert cluster["enableInTreeAutoscaling"] and cluster["autoscalerOptions"]["version"] == "v2"
    assert all("restartPolicy" not in group["template"]["spec"] for group in groups(ray_job("dev", job))), (
        "v2 refuses it"
    )
    for overlay in ("prod", "spot"):
        queued = ray_job(overlay, job)
        assert queued["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "vamba"
        assert queued["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == f"vamba-{job}"
        assert queued["spec"]["suspend"] is True
        # Kueue refuses a job that has both a queue and an autoscaler.
        assert not queued["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]
        for group in queued["spec"]["rayClusterSpec"]["workerGroupSpecs"]:
            assert group["minReplicas"] == group["replicas"] == group["maxReplicas"]
            assert group["groupName"] != "head", "Kueue keeps this name for itself"


def test_queues_and_priorities_that_are_named_exist() -> None:
    made = {(item["kind"], item["metadata"]["name"]): item for item in (*rendered("queue"), *rendered("overlays/prod"))}
    queue = made["ClusterQueue", made["LocalQueue", "vamba"]["spec"]["clusterQueue"]]
    values = {job: made["WorkloadPriorityClass", f"vamba-{job}"]["value"] for job in JOBS}
    assert values["promote"] > values["evaluate"] > values["ingest"] > values["train"]
    (group,) = queue["spec"]["resourceGroups"]
    for flavor in group["flavors"]:
        assert ("ResourceFlavor", flavor["name"]) in made
        assert [entry["name"] for entry in flavor["resources"]] == group["coveredResources"]
    namespace = queue["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
    assert ("Namespace", namespace) in made


def _number(quantity: str) -> float:
    """A Kubernetes quantity as a number: 500m, 8Gi, 2Ti."""
    units = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
    for unit, factor in units.items():
        if quantity.endswith(unit):
            return float(quantity.removesuffix(unit)) * factor
    return float(quantity)


@pytest.mark.parametrize("overlay", ["prod", "spot"])
def test_every_job_fits_its_queue(overlay: str) -> None:
    """A job that asks for more than the quota would wait for ever."""
    items = rendered("queue")
    kinds = {item["metadata"]["name"]: item["spec"]["nodeLabels"] for item in items if item["kind"] == "ResourceFlavor"}
    (queue,) = (item for item in items if item["kind"] == "ClusterQueue")
    (group,) = queue["spec"]["resourceGroups"]
    for job in JOBS:
        left = {f["name"]: {r["name"]: _number(r["nominalQuota"]) for r in f["resources"]} for f in group["flavors"]}
        found = ray_job(overlay, job)
        pods = [(found["spec"]["submitterPodTemplate"], 1)]
        pods += [(entry["template"], entry.get("replicas", 1)) for entry in groups(found)]
        for template, count in pods:
            (flavor,) = (name for name, labels in kinds.items() if labels == template["spec"]["nodeSelector"])
            for name, quantity in template["spec"]["containers"][0]["resources"]["requests"].items():
                assert name in left[flavor], f"the queue has no quota for {name}"
                left[flavor][name] -= count * _number(quantity)
        assert all(rest >= 0 for flavor in left.values() for rest in flavor.values()), (job, left)


def test_only_workers_are_on_spot_nodes() -> None:
    for job in JOBS:
        for group in groups(ray_job("spot", job)):
            pod, name = group["template"]["spec"], group.get("groupName", "head")
            kept = name in ("head", "driver")
            assert pod["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand" if kept else "spot"}
            tolerated = {entry["key"] for entry in pod.get("tolerations", [])}
            assert ("karpenter.sh/capacity-type" in tolerated) == (not kept)
        for group in groups(ray_job("prod", job)):
            assert group["template"]["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}


@pytest.mark.parametrize(("overlay", "job"), CASES)
def test_head_and_driver_are_kept_and_workers_drain(overlay: str, job: str) -> None:
    (budget,) = (i for i in rendered(f"overlays/{overlay}/{job}") if i["kind"] == "PodDisruptionBudget")
    selector = budget["spec"]["selector"]["matchLabels"]
    assert selector["app.kubernetes.io/component"] == job, "one job's budget must not count another's pods"
    kept = 0
    for group in groups(ray_job(overlay, job)):
        template = group["template"]
        kept += selector.items() <= template["metadata"]["labels"].items()
        (container,) = template["spec"]["containers"]
        drain = {item["name"]: item["value"] for item in container["env"]}["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]
        assert 60 <= int(drain) < template["spec"]["terminationGracePeriodSeconds"] <= 120, "AWS gives two minutes"
    assert budget["spec"] == {"minAvailable": kept, "selector": {"matchLabels": selector}}


def test_pods_meet_the_restricted_profile_and_their_root_is_read_only() -> None:
    for where, pod, container in _containers():
        security = container["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] > 0, where
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert security["allowPrivilegeEscalation"] is False and security["capabilities"] == {"drop": ["ALL"]}, where
        assert security["readOnlyRootFilesystem"] is True, where
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod), where
        assert not any("hostPath" in volume for volume in pod.get("volumes", [])), where
        memory = container["resources"]
        assert memory["limits"]["memory"] == memory["requests"]["memory"], where
    for item in _all_objects():
        if item["kind"] == "RayJob" and item["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"]:
            options = item["spec"]["rayClusterSpec"]["autoscalerOptions"]
            assert options["securityContext"]["readOnlyRootFilesystem"] is True
            assert options["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {"name": "tmp", "mountPath": "/tmp"} in options["volumeMounts"]
    for overlay in OVERLAYS:
        (namespace,) = (item for item in rendered(f"overlays/{overlay}") if item["kind"] == "Namespace")
        assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


@pytest.mark.parametrize(("overlay", "job"), CASES)
def test_what_ray_writes_to_can_be_written(overlay: str, job: str) -> None:
    (settings,) = (item for item in rendered(f"overlays/{overlay}") if item["kind"] == "ConfigMap")
    assert settings["data"]["HOME"] == "/tmp" and settings["data"]["RAY_AUTH_MODE"] == "token"
    for group in groups(ray_job(overlay, job)):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        paths = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
        assert len(volumes) == len(paths), "every volume is mounted"
        assert {"/tmp", "/dev/shm", settings["data"]["VAMBA_HOME"]} == set(paths)
        assert paths["/dev/shm"]["emptyDir"]["medium"] == "Memory"
        claim = paths[settings["data"]["VAMBA_HOME"]]["persistentVolumeClaim"]["claimName"]
        (volume,) = (item for item in rendered(f"overlays/{overlay}") if item["kind"] == "PersistentVolumeClaim")
        assert volume["metadata"]["name"] == claim
        assert volume["metadata"]["namespace"] == ray_job(overlay, job)["metadata"]["namespace"]


def test_secrets_are_named_and_never_contained() -> None:
    named = set()
    for item in _all_objects():
        assert item["kind"] != "Secret"
        text = yaml.safe_dump(item)
        named |= set(re.findall(r"(?:secretRef|secretKeyRef):\s+(?:key: \S+\s+)?name: (\S+)", text))
        named |= set(re.findall(r"secretName: (\S+)", text))
        assert not re.search(r"AKIA[0-9A-Z]{16}|BEGIN [A-Z ]*PRIVATE KEY|://[^/\s:]+:[^@\s/]+@", text)
    assert named == SECRETS


def test_nothing_is_reached_that_no_policy_allows() -> None:
    for overlay in OVERLAYS:
        items = rendered(f"overlays/{overlay}")
        policies = {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == "NetworkPolicy"}
        nothing = {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
        assert policies["vamba-nothing"] == nothing
        for name, spec in policies.items():
            for rule in spec.get("ingress", []):
                assert rule.get("from"), f"{name}: an ingress rule without `from` lets everybody in"
                assert all("ipBlock" not in source for source in rule["from"]), f"{name}: no door to the outside"
            for rule in spec.get("egress", []):
                for target in rule["to"]:
                    if "ipBlock" in target:
                        assert "169.254.169.254/32" in target["ipBlock"]["except"], f"{name}: the node's metadata"
        servers = {i["metadata"]["name"] for i in items if i["kind"] in ("Deployment", "StatefulSet")}
        assert servers <= set(policies), "each server says who may reach it"
        services = {item["metadata"]["name"]: item["spec"] for item in items if item["kind"] == "Service"}
        assert servers == set(services) and all("type" not in spec for spec in services.values()), "cluster-internal"
