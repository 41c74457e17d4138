"""Which place a word of `--to` means."""

from __future__ import annotations

from jobs.submission.place import Place


def place_of(to: str, namespace: str) -> Place:
    """Raises ValueError for a place that runs nothing (sky: its own commands follow its jobs)."""
    if to == "kuberay":
        from jobs.submission.kubernetes import Kubernetes

        return Kubernetes(namespace)
    if to == "sky":
        raise ValueError(
            "Jobs of SkyPilot are followed by its own commands: `sky jobs queue`, `sky jobs logs -n NAME`, "
            "`sky jobs cancel -n NAME`."
        )
    from jobs.submission.ray_cluster import RayCluster

    return RayCluster(to)
