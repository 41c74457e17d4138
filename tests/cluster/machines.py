"""A Ray cluster on loopback whose machines come and go, each with a raylet, an agent and worker processes of its own.

The head has no cores for work. It keeps the cluster's state on disk (GCS on RocksDB), so that it can be started again.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from tests.faults.clusters import drain, node_of, ray_cluster
from tests.services.processes import free_ports

_DASHBOARD_PATIENCE_S = 120.0


class Machines:
    """The cluster. Only the main thread may change it."""

    def __init__(self, cluster: Any, head: Mapping[str, Any]) -> None:
        self._cluster, self._head = cluster, head

    @property
    def dashboard(self) -> str:
        """Where jobs are submitted."""
        return f"http://127.0.0.1:{self._head['dashboard_port']}"

    def add(self) -> None:
        """A spot machine with one core."""
        self._start(num_cpus=1, resources={"spot": 1})

    def of(self, pid: int) -> Any:
        """The machine on which a process runs."""
        return node_of(self._cluster, pid)

    def any(self) -> Any:
        """A machine that can work."""
        return min(self._cluster.worker_nodes, key=lambda node: str(node.node_id))

    def announce(self, machine: Any, notice_s: float) -> None:
        """The cloud says that it takes a machine back: Ray's own preemption notice."""
        drain(self._cluster, machine, notice_s)

    def end(self, machine: Any) -> None:
        """All processes of a machine end at once, by force."""
        self._cluster.remove_node(machine, allow_graceful=False)

    def end_head(self) -> None:
        """So does the head with its GCS, its dashboard and the drivers of all jobs."""
        self._cluster.remove_node(self._cluster.head_node, allow_graceful=False)

    def start_head(self) -> None:
        """The head again, at the same address, with the state that it kept; returns when its dashboard answers, which
        is some seconds after its node is there."""
        self._start(**self._head)
        deadline = time.monotonic() + _DASHBOARD_PATIENCE_S
        while True:
            try:
                with urlopen(f"{self.dashboard}/api/version", timeout=5):
                    return
            except OSError:
                assert time.monotonic() < deadline, f"no dashboard at {self.dashboard}"
                time.sleep(0.2)

    def _start(self, **arguments: Any) -> None:
        handler = signal.getsignal(signal.SIGTERM)
        self._cluster.add_node(**arguments)
        # Ray has put its own there, which waits for a drain of the node that it thinks this process is.
        signal.signal(signal.SIGTERM, handler)


@contextmanager
def machines(folder: Path, environment: Mapping[str, str]) -> Iterator[Machines]:
    """A head, and no other machine yet. environment: of every process on every machine, for example credentials."""
    state, scratch = folder / "gcs", folder / "tmp"
    for each in (state, scratch):
        each.mkdir()
    gcs, dashboard = free_ports(2)
    head = {
        "num_cpus": 0,
        "gcs_server_port": gcs,
        "include_dashboard": True,
        "dashboard_host": "127.0.0.1",
        "dashboard_port": dashboard,
    }
    settings = {
        **environment,
        # What jobs start as `python` is this one.
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_gcs_storage": "rocksdb",
        "RAY_gcs_storage_path": str(state),
        "OMP_NUM_THREADS": "1",
        # What processes leave behind that are killed here goes with the folder.
        "TMPDIR": str(scratch),
        "RAY_TMPDIR": str(folder),
    }
    os.environ.update(settings)
    for name in ("RAY_ADDRESS", "PYTHONPATH"):
        os.environ.pop(name, None)
    handler = signal.getsignal(signal.SIGTERM)
    with ray_cluster(**head) as cluster:
        signal.signal(signal.SIGTERM, handler)
        yield Machines(cluster, head)
