"""Gauges that Ray's agent on each node exports for Prometheus, set from the driver of a job.

A job lists its gauges once (`GaugeSpec`), for dashboards and alert rules as well; Prometheus shows a name as `ray_` +
name. Where Ray is not running, nothing happens.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class GaugeSpec:
    """One metric. All are gauges: their values are read from what a job has written down, so that a restarted job goes
    on with them, where a counter would start again."""

    name: str
    unit: str
    description: str


class Gauges:
    """The gauges of a table, under one label. They are opened when Ray runs, and not before."""

    def __init__(self, specs: Sequence[GaugeSpec], *, label: str) -> None:
        self._specs, self._label = specs, label
        self._gauges: dict[str, Any] | None = None

    def set(self, values: Mapping[str, float], label_value: str) -> None:
        """Set the gauges that `values` names; names that the table lacks are left out."""
        gauges = self._open()
        for name, value in values.items():
            if name in gauges:
                gauges[name].set(value, tags={self._label: label_value})

    def _open(self) -> Mapping[str, Any]:
        if self._gauges is None:
            ray = sys.modules.get("ray")  # what has not been imported is not running
            if ray is None or not ray.is_initialized():
                return {}
            from ray.util.metrics import Gauge

            made = {s.name: Gauge(s.name, f"{s.description} [{s.unit}]", tag_keys=(self._label,)) for s in self._specs}
            self._gauges = made
        return self._gauges
