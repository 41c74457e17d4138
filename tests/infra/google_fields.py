"""The fields of a Compute Engine instance (compute v1) that `infra/ray/gcp.yaml` may use.

Checked once against the discovery document that google-api-python-client ships; the package is too large to install for
this. A dictionary holds the fields of an object, a list with one those of its items; None ends a path.
"""

from __future__ import annotations

from typing import Any

_DISK = {
    "boot": None, "autoDelete": None, "type": None, "mode": None, "deviceName": None, "diskSizeGb": None,
    "initializeParams": {"diskSizeGb": None, "sourceImage": None, "diskType": None, "labels": None},
}  # fmt: skip
INSTANCE: dict[str, Any] = {
    "machineType": None,
    "minCpuPlatform": None,
    "labels": None,
    "disks": [_DISK],
    "guestAccelerators": [{"acceleratorType": None, "acceleratorCount": None}],
    "metadata": {"items": [{"key": None, "value": None}]},
    "networkInterfaces": [{"subnetwork": None, "network": None, "accessConfigs": [{"name": None, "type": None}]}],
    "serviceAccounts": [{"email": None, "scopes": None}],
    "shieldedInstanceConfig": {"enableSecureBoot": None, "enableVtpm": None, "enableIntegrityMonitoring": None},
    "scheduling": {
        "provisioningModel": None, "instanceTerminationAction": None, "automaticRestart": None,
        "onHostMaintenance": None, "preemptible": None,
    },
}  # fmt: skip


def unknown_fields(value: Any, expected: Any = INSTANCE, path: str = "") -> list[str]:
    """The paths in a node_config that Google knows nothing of."""
    if expected is None:
        return []
    if isinstance(expected, list):
        return [text for entry in value for text in unknown_fields(entry, expected[0], path)]
    found = []
    for name, entry in value.items():
        at = f"{path}.{name}" if path else name
        found += unknown_fields(entry, expected[name], at) if name in expected else [at]
    return found
