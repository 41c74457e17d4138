"""What a job needs of a Ray cluster, and whether the cluster has it.

    needs_of(config) ──> Needs ──┐
    nodes of the cluster ────────┴─> require_room: nothing, or ValueError with both numbers and the remedy

Counted is what nodes have in all, not what is free now: a job waits for others to end, but would wait for ever for
what is not there. A worker runs on one node, so nodes are counted one by one.
"""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

_OWN_KIND = re.compile(r"node_?[0-9A-Fa-f]{20,}")
# From RAY_NODE_TYPE_NAME, with which cluster launchers and KubeRay start nodes.
_GROUP_LABEL = "ray.io/node-group"
_NODES_BY_KIND = ("active_nodes", "idle_nodes", "activeNodes", "idleNodes")
# Where Ray's first autoscaler keeps its report; the dashboard reads it there, too.
_AUTOSCALER_STATUS = "__autoscaling_status"
PATIENCE_S = 30.0
_POLL_S = 1.0

if TYPE_CHECKING:
    from pipelines.evaluation.config import EvaluationConfig
    from pipelines.training.config import TrainingConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """The workers of a job.

    job: its verb. workers: as many as it asks for, side by side; None for as many as there is room for. fewest: the job
    can't begin with fewer. cpus, gpus: of each. gpu_memory_gb: of each GPU, in GiB; None where the configuration names
    none. remedy: what to change where they don't fit.
    """

    job: str
    workers: int | None
    fewest: int
    cpus: float
    gpus: float = 0.0
    gpu_memory_gb: float | None = None
    remedy: str = ""

    def each(self) -> str:
        """What one worker is given, in words."""
        return f"{counted(self.cpus, 'CPU')}" + (f" and {counted(self.gpus, 'GPU')}" if self.gpus else "")

    def words(self, number: int) -> str:
        """So many of the workers: "8 workers of 1 CPU and 1 GPU each"."""
        return f"{counted(number, 'worker')} of {self.each()}{'' if number == 1 else ' each'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What one node offers to jobs."""

    cpus: float
    gpus: float = 0.0

    def holds(self, needs: Needs) -> int:
        """Workers that fit on it."""
        rooms = [have / each for have, each in ((self.cpus, needs.cpus), (self.gpus, needs.gpus)) if each > 0]
        return math.floor(min(rooms) + 1e-9) if rooms else needs.fewest


def training_needs(config: TrainingConfig) -> Needs:
    """An elastic run can begin with `workers.min_workers`."""
    workers = config.workers
    on_cpus = "" if workers.device == "cpu" else ", or set workers.device=cpu"
    return Needs(
        job="train",
        workers=workers.num_workers,
        fewest=workers.min_workers or workers.num_workers,
        cpus=workers.cpus,
        gpus=1.0 if workers.device == "cuda" else 0.0,
        gpu_memory_gb=workers.gpu_memory_gb,
        remedy="lower workers.num_workers, or set workers.min_workers to begin with fewer" + on_cpus,
    )


def evaluation_needs(config: EvaluationConfig, *, has_gpus: bool) -> Needs:
    """has_gpus: whether the cluster has any, which decides for the device `auto`."""
    on_gpu = config.device == "cuda" or (config.device == "auto" and has_gpus)
    return Needs(
        job="evaluate",
        workers=config.num_replicas,
        fewest=config.num_replicas,
        cpus=1.0,
        gpus=1.0 if on_gpu else 0.0,
        remedy="lower num_replicas" + (", or set device=cpu" if on_gpu else ""),
    )


def ingest_needs() -> Needs:
    """Its tasks take one CPU each, on as many as there are."""
    return Needs(job="ingest", workers=None, fewest=1, cpus=1.0, remedy="add a node that offers CPUs")


def require_room(needs: Needs, nodes: Sequence[Node], *, where: str) -> None:
    """Raises ValueError if the nodes, all free, hold fewer workers than the job can begin with.

    where: the cluster, as the message names it.
    """
    rooms = [node.holds(needs) for node in nodes]
    if sum(rooms) >= needs.fewest:
        return
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    total = counted(needs.fewest * needs.gpus, "GPU") if needs.gpus else counted(needs.fewest * needs.cpus, "CPU")
    has = f"{counted(gpus, 'GPU')} and {counted(cpus, 'CPU')}" if needs.gpus else counted(cpus, "CPU")
    fits = f"room for {sum(rooms)}: add nodes" if any(rooms) else f"none with {needs.each()}: take larger ones"
    raise ValueError(
        f"{needs.job} needs {total} ({needs.words(needs.fewest)}), and {where} has {has} "
        f"on {counted(len(nodes), 'node')}, {fits}, or {needs.remedy}."
    )


def grows(status: Mapping[str, Any] | None, labels: Sequence[Mapping[str, str]]) -> bool:
    """Whether an autoscaler may add nodes: by what Ray's first autoscaler writes down about kinds of nodes, and by the
    kind that nodes of the second one are started with. How many it may add is told nowhere.

    status: the cluster's, as Ray keeps it, or in the spelling of the dashboard; None where there is none. labels: of
    each node.
    """
    status = status or {}
    report = status.get("autoscaler_report") or status.get("autoscalerReport") or {}
    kinds = {kind for name in _NODES_BY_KIND for kind in report.get(name) or {}}
    # A monitor without an autoscaler names each node after itself.
    return any(not _OWN_KIND.fullmatch(kind) for kind in kinds) or any(_GROUP_LABEL in entry for entry in labels)


def require_room_here(needs: Needs, notice: Callable[[str], None], *, patience_s: float = PATIENCE_S) -> None:
    """The same of the cluster that this process is connected to.

    A node that is just coming back is waited for, and so is an autoscaler, for as long as it takes.
    """
    import ray
    from ray.experimental.internal_kv import _internal_kv_get

    deadline, told = time.monotonic() + patience_s, False
    while True:
        entries = [entry for entry in ray.nodes() if entry["Alive"]]
        try:
            require_room(needs, [node_of(entry["Resources"]) for entry in entries], where="the cluster")
        except ValueError as error:
            status = json.loads(_internal_kv_get(_AUTOSCALER_STATUS) or "null")
            if grows(status, [entry["Labels"] for entry in entries]):
                notice(f"{error} It has an autoscaler: waiting for nodes.")
                return
            if time.monotonic() > deadline:
                raise
            if not told:
                notice(f"{error} Looking for more nodes for {patience_s:g} s.")
                told = True
            time.sleep(_POLL_S)
        else:
            return


def node_of(resources: Mapping[str, float]) -> Node:
    """From Ray's resources by name."""
    return Node(cpus=resources.get("CPU", 0.0), gpus=resources.get("GPU", 0.0))


def counted(number: float, noun: str) -> str:
    """(8.0, "GPU") → "8 GPUs"."""
    return f"{number:g} {noun}{'' if number == 1 else 's'}"
