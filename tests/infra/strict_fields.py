"""The fields that KubeRay (v1) and Kueue (v1beta1) know, of those kinds and parts that our files use.

A field that is not listed is refused: the API server would drop it in silence. A nested dictionary holds the fields
of an object, a list with one dictionary those of its items; a type is the type of a leaf; ANY is checked elsewhere (a
pod template, with Kubernetes' own schema) or free (labels, quantities).
"""

from __future__ import annotations

from typing import Any

ANY = object()

_SECRET_KEY = {"valueFrom": {"secretKeyRef": {"name": str, "key": str}}}
_GROUP = {"rayStartParams": ANY, "template": ANY}
_CLUSTER = {
    "rayVersion": str,
    "authOptions": {"mode": str, "secretName": str},
    "gcsFaultToleranceOptions": {
        "redisAddress": str, "redisUsername": _SECRET_KEY, "redisPassword": _SECRET_KEY,
        "externalStorageNamespace": str,
    },
    "enableInTreeAutoscaling": bool,
    "autoscalerOptions": {
        "version": str, "upscalingMode": str, "idleTimeoutSeconds": int, "image": str, "imagePullPolicy": str,
        "env": ANY, "envFrom": ANY, "resources": ANY, "securityContext": ANY, "volumeMounts": ANY,
    },
    "headGroupSpec": {**_GROUP, "serviceType": str},
    "workerGroupSpecs": [
        {**_GROUP, "groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "idleTimeoutSeconds": int}
    ],
}  # fmt: skip

FIELDS: dict[tuple[str, str], dict[str, Any]] = {
    ("ray.io/v1", "RayJob"): {
        "spec": {
            "entrypoint": str, "entrypointNumCpus": float, "entrypointNumGpus": float, "entrypointResources": str,
            "runtimeEnvYAML": str, "metadata": ANY, "jobId": str, "suspend": bool, "shutdownAfterJobFinishes": bool,
            "ttlSecondsAfterFinished": int, "activeDeadlineSeconds": int, "backoffLimit": int, "submissionMode": str,
            "submitterConfig": {"backoffLimit": int}, "submitterPodTemplate": ANY, "rayClusterSpec": _CLUSTER,
        }
    },
    ("kueue.x-k8s.io/v1beta1", "ResourceFlavor"): {
        "spec": {"nodeLabels": ANY, "nodeTaints": ANY, "tolerations": ANY}
    },
    ("kueue.x-k8s.io/v1beta1", "LocalQueue"): {"spec": {"clusterQueue": str, "stopPolicy": str}},
    ("kueue.x-k8s.io/v1beta1", "WorkloadPriorityClass"): {"value": int, "description": str},
    ("kueue.x-k8s.io/v1beta1", "ClusterQueue"): {
        "spec": {
            "cohort": str, "queueingStrategy": str, "stopPolicy": str, "namespaceSelector": ANY,
            "preemption": {"withinClusterQueue": str, "reclaimWithinCohort": str},
            "flavorFungibility": {"whenCanBorrow": str, "whenCanPreempt": str},
            "resourceGroups": [
                {"coveredResources": ANY, "flavors": [{"name": str, "resources": [{"name": str, "nominalQuota": str}]}]}
            ],
        }
    },
}  # fmt: skip


def unknown_fields(item: dict[str, Any]) -> list[str]:
    """What is wrong with an object of one of the kinds above: the path and the reason of each finding."""
    fields = {"apiVersion": str, "kind": str, "metadata": ANY, **FIELDS[item["apiVersion"], item["kind"]]}
    return _compare(item, fields, item["kind"])


def _compare(value: Any, expected: Any, path: str) -> list[str]:
    if expected is ANY:
        return []
    if isinstance(expected, list):
        if not isinstance(value, list):
            return [f"{path}: a list is expected, not {value!r}"]
        return [text for at, entry in enumerate(value) for text in _compare(entry, expected[0], f"{path}[{at}]")]
    if isinstance(expected, dict):
        if not isinstance(value, dict):
            return [f"{path}: fields are expected, not {value!r}"]
        found = [f"{path}.{name}: no such field" for name in value if name not in expected]
        known = [name for name in value if name in expected]
        return found + [text for name in known for text in _compare(value[name], expected[name], f"{path}.{name}")]
    right = type(value) is expected or (expected is float and type(value) is int)
    return [] if right else [f"{path}: {value!r} is not of type {expected.__name__}"]
