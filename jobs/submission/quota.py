"""Whether a job's workers fit the quota of its queue: Kueue admits a job with all its pods or not at all, so one that
asks for more than there is would wait for ever.

The quota is that of `infra/kuberay/queue/queues.yaml`, which the cluster's administrator edits.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from jobs.submission.kustomize import Object
from pipelines.capacity import counted

_UNITS = {"m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30, "Ti": 2.0**40}
_WORDS = {"cpu": "CPU", "nvidia.com/gpu": "GPU"}


def quantity(text: str) -> float:
    """A quantity of Kubernetes as a number: 500m, 8Gi."""
    for unit, factor in _UNITS.items():
        if text.endswith(unit):
            return float(text.removesuffix(unit)) * factor
    return float(text)


def require_quota(job: str, group: Object, queues: Path) -> None:
    """Raises ValueError where the group's pods together ask for more CPUs or GPUs than their kind of node has quota."""
    objects = [item for item in yaml.safe_load_all(queues.read_text(encoding="utf-8")) if item]
    pod = group["template"]["spec"]
    kinds = {i["metadata"]["name"]: i["spec"]["nodeLabels"] for i in objects if i["kind"] == "ResourceFlavor"}
    (queue,) = (item for item in objects if item["kind"] == "ClusterQueue")
    for flavor in (flavor for part in queue["spec"]["resourceGroups"] for flavor in part["flavors"]):
        if kinds[flavor["name"]] != pod.get("nodeSelector"):
            continue
        quota = {entry["name"]: quantity(entry["nominalQuota"]) for entry in flavor["resources"]}
        for name in ("nvidia.com/gpu", "cpu"):
            asked = group["replicas"] * quantity(pod["containers"][0]["resources"]["requests"].get(name, "0"))
            if asked > quota.get(name, 0):
                has, needs = counted(quota.get(name, 0), _WORDS[name]), counted(asked, _WORDS[name])
                raise ValueError(
                    f"{job} needs {needs} on {counted(group['replicas'], 'node')}, and the queue has {has} on nodes "
                    f"{flavor['name']} ({queues}), so it would wait for ever: ask for fewer workers, take another "
                    "--profile or --queue, or raise the quota there. To send it all the same: --no-capacity-check."
                )
