"""Decisions of the gate as Prometheus metrics, through Ray: how many of each kind a model has had, and when.

    audit log ──counts──> exporter (an actor of the cluster that outlives this process) ──> Ray's agent ──> Prometheus

`METRICS` is the list of all there are; the label is the model. A promotion ends within seconds, before anything could
read what it exports itself, so the values live in a small actor that stays. They are counted from the audit log: a new
cluster shows the whole of them again after the next decision.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pipelines.ray_gauges import Gauges, GaugeSpec
from pipelines.ray_session import ray_session
from pipelines.registry import history
from pipelines.registry.audit import Entry

METRICS: tuple[GaugeSpec, ...] = (
    GaugeSpec(name="vamba_registry_promotions", unit="decisions", description="Aliases moved to what passed the gate."),
    GaugeSpec(name="vamba_registry_refusals", unit="decisions", description="Versions that the gate refused."),
    GaugeSpec(name="vamba_registry_forced", unit="decisions", description="Aliases moved although checks failed."),
    GaugeSpec(name="vamba_registry_rollbacks", unit="decisions", description="Aliases moved back."),
    GaugeSpec(name="vamba_registry_last_decision_timestamp_seconds", unit="s", description="When the last was (Unix)."),
)
LABEL = "model"
_COUNTED = {
    history.PROMOTED: "vamba_registry_promotions",
    history.REFUSED: "vamba_registry_refusals",
    history.FORCED: "vamba_registry_forced",
    history.ROLLED_BACK: "vamba_registry_rollbacks",
}
_NAMESPACE, _ACTOR = "vamba", "registry_metrics"
_PATIENCE_S = 60.0


class Exporter:
    """Holds the gauges in a process of the cluster."""

    def __init__(self) -> None:
        self._gauges = Gauges(METRICS, label=LABEL)

    def set(self, values: Mapping[str, float], model: str) -> None:
        """Set the gauges of a model."""
        self._gauges.set(values, model)


def decision_counts(entries: Sequence[Entry], model: str) -> dict[str, float]:
    """Values by name of `METRICS`; the time is left out where nothing was decided."""
    values = dict.fromkeys(_COUNTED.values(), 0.0)
    for entry in history.about(entries, model):
        name = _COUNTED.get(entry.body.get("decision", ""))
        if name is None or entry.body.get("action") not in (history.MOVE, history.REFUSE):
            continue
        values[name] += 1
        decided = datetime.fromisoformat(str(entry.body["created_at"])).timestamp()
        values["vamba_registry_last_decision_timestamp_seconds"] = decided
    return values


def export_decisions(entries: Sequence[Entry], model: str, address: str | None) -> bool:
    """Show a model's decisions to the Ray cluster at `address`, or at RAY_ADDRESS; False where neither is given.

    Raises what Ray raises where the cluster can't be reached, TimeoutError where it has no room for the exporter.
    """
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        return False
    with ray_session(address, namespace=_NAMESPACE):
        import ray

        options = {"name": _ACTOR, "lifetime": "detached", "get_if_exists": True, "num_cpus": 0}
        exporter: Any = ray.remote(Exporter).options(**options).remote()
        ray.get(exporter.set.remote(decision_counts(entries, model), model), timeout=_PATIENCE_S)
    return True
