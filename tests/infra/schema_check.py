"""One Kubernetes object against what its API knows."""

from __future__ import annotations

from typing import Any

import kubernetes_validate

from tests.infra.kustomized import templates
from tests.infra.strict_fields import FIELDS, unknown_fields


def check_object(item: dict[str, Any], version: str) -> None:
    """Fails for a field that `version` of Kubernetes, or KubeRay and Kueue, would refuse or drop."""
    if (item["apiVersion"], item["kind"]) in FIELDS:
        assert not unknown_fields(item)
    else:
        kubernetes_validate.validate(item, version, strict=True)
    if item["kind"] == "RayJob":
        for _, template in templates(item):
            pod = {"apiVersion": "v1", "kind": "Pod", **template}
            kubernetes_validate.validate(pod, version, strict=True)
