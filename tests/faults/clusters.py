"""Ray clusters of several nodes on this machine, whose nodes a test adds, drains and ends."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil


@contextmanager
def ray_cluster(**head_arguments: Any) -> Iterator[Any]:
    """A cluster whose head runs no work; ended with all its nodes at the end of the block."""
    from ray.cluster_utils import Cluster

    arguments = {"num_cpus": 0, "include_dashboard": False, **head_arguments}
    cluster = Cluster(initialize_head=True, head_node_args=arguments)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def add_nodes(cluster: Any, count: int) -> None:
    """Machines with room for one worker each."""
    for _ in range(count):
        cluster.add_node(num_cpus=1)


def node_of(cluster: Any, pid: int) -> Any:
    """The node that a worker runs on: that of the raylet it descends from."""
    raylets = {parent.pid for parent in psutil.Process(pid).parents()}
    (found,) = [node for node in cluster.worker_nodes if node.all_processes["raylet"][0].process.pid in raylets]
    return found


def drain(cluster: Any, node: Any, notice_s: float) -> None:
    """What a cloud's notice becomes in Ray."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
    deadline_ms = int((time.time() + notice_s) * 1000)
    accepted, _ = GcsClient(address=cluster.address).drain_node(node.node_id, reason, "spot reclaim", deadline_ms)
    assert accepted
