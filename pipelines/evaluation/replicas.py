"""Model replicas as Ray actors, one per worker, for `num_replicas` above 1 or a cluster given by `address`.

Each replica holds a model and reads its videos from storage by itself; only questions and texts travel. A replica
that dies is restarted by Ray and its video is shown again, up to three times.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pipelines.capacity import evaluation_needs, require_room_here
from pipelines.evaluation.answering import Answerer, Reply
from pipelines.evaluation.config import EvaluationConfig
from pipelines.evaluation.plan import Showing
from pipelines.evaluation.questions import BrokenVideo
from pipelines.evaluation.show import show
from pipelines.ray_session import ray_session
from pipelines.storage import open_storage

_MAX_RESTARTS = 3


class Replica:
    """One model, in its own process."""

    def __init__(self, config: EvaluationConfig, directory: Path) -> None:
        self._config = config
        self._answerer = Answerer(directory, device=config.device, dtype=config.dtype, backends=config.backends)

    def show(self, showing: Showing) -> Reply | BrokenVideo:
        return show(self._answerer, self._config, showing)


def replies_from_replicas(
    config: EvaluationConfig, directory: Path, showings: Sequence[Showing]
) -> Iterator[tuple[Showing, Reply | BrokenVideo]]:
    """Answers in the order they are finished. Starts Ray, or joins the cluster at `config.address`."""
    import ray

    if not config.benchmark:
        # Absolute, as replicas on a cluster have working directories of their own.
        config = replace(config, data=open_storage(config.data).uri)

    address = config.address or os.environ.get("RAY_ADDRESS")
    num_cpus = None if address else max(os.cpu_count() or 1, config.num_replicas)
    with ray_session(address, num_cpus):
        needs = evaluation_needs(config, has_gpus=bool(ray.cluster_resources().get("GPU")))
        if address:
            require_room_here(replace(needs, fewest=min(needs.fewest, len(showings))), _tell)
        actor = ray.remote(
            num_cpus=needs.cpus, num_gpus=needs.gpus, max_restarts=_MAX_RESTARTS, max_task_retries=_MAX_RESTARTS
        )(Replica)
        replicas: list[Any] = [actor.remote(config, directory) for _ in range(min(config.num_replicas, len(showings)))]
        # Longest videos first, so that no replica is left alone with an hour at the end.
        waiting = sorted(showings, key=lambda showing: showing.source.num_frames)
        running: dict[Any, tuple[Any, Showing]] = {}
        for replica in replicas:
            showing = waiting.pop()
            running[replica.show.remote(showing)] = (replica, showing)
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            replica, showing = running.pop(done)
            yield showing, ray.get(done)
            if waiting:
                showing = waiting.pop()
                running[replica.show.remote(showing)] = (replica, showing)


def _tell(text: str) -> None:
    """Beside the results, which are on stdout."""
    print(text, file=sys.stderr, flush=True)
