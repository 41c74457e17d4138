"""Ingest and evaluation look for room on the cluster that they join, and not on this machine."""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from pipelines.capacity import Needs
from pipelines.evaluation import replicas
from pipelines.evaluation.config import EvaluationConfig
from pipelines.ingest import job
from pipelines.ingest.config import IngestConfig
from pipelines.ingest.progress import Silent


def _refuse(needs: Needs, notice: Any) -> None:
    raise ValueError(f"{needs.job} needs {needs.fewest} of {needs.cpus:g} CPUs and {needs.gpus:g} GPUs")


@pytest.fixture(autouse=True)
def _no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (job, replicas):
        monkeypatch.setattr(module, "ray_session", lambda *arguments: nullcontext())
        monkeypatch.setattr(module, "require_room_here", _refuse)


@pytest.mark.parametrize("address", [None, "head:6379"])
def test_an_ingest(address: str | None) -> None:
    config = IngestConfig(sources=("videos",), out="out", ray_address=address)
    with ExitStack() as session:
        ray = job._Ray(config, session, Silent())
        if address is None:
            ray.start()
        else:
            with pytest.raises(ValueError, match="ingest needs 1 of 1 CPUs and 0 GPUs"):
                ray.start()


@pytest.mark.parametrize(
    ("gpus", "showings", "needed"), [(4, 9, "3 of 1 CPUs and 1 GPUs"), (0, 2, "2 of 1 CPUs and 0")]
)
def test_an_evaluation_needs_a_worker_for_each_replica_that_has_a_video(
    monkeypatch: pytest.MonkeyPatch, gpus: int, showings: int, needed: str
) -> None:
    import ray

    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": float(gpus)})
    config = EvaluationConfig(model="m", data="d", num_replicas=3, address="head:6379")
    videos: list[Any] = [None] * showings
    with pytest.raises(ValueError, match=f"evaluate needs {needed}"):
        next(replicas.replies_from_replicas(config, Path("model"), videos))
