"""Spot machines are taken, with a notice: a cluster of three nodes on this machine, of which one goes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.faults.clusters import add_nodes, drain, node_of, ray_cluster
from tests.faults.conftest import long_config
from tests.faults.lives import ROOT, assert_as_undisturbed, events_of, step_reached
from tests.faults.ray_jobs import ray_job

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(500)]

NOTICE_AFTER, NOTICE_S = 5, 15.0


def noticed_run(scratch: Path, name: str) -> TrainingConfig:
    """A run that outlasts the notice, and saves only because of it."""
    config = long_config(scratch, name)
    train = replace(config.train, checkpoint_every_steps=1000)
    return replace(config, train=train, workers=replace(config.workers, max_failures=0))


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with ray_cluster() as started:
        yield started


def test_node_drained(cluster: Any, undisturbed_long: RunDirectory, scratch: Path) -> None:
    """A spot machine goes 15 s after its notice: saved at once and just before, the run goes on elsewhere."""
    add_nodes(cluster, 3)
    config = noticed_run(scratch, "drained")
    with ray_job(config, scratch, "--address", cluster.address) as job:
        job.wait_until(step_reached(NOTICE_AFTER))
        node = node_of(cluster, read_attempts(job.directory)[0].pids[1])
        drain(cluster, node, NOTICE_S)
        noticed = max(record["step"] for _, record in job.directory.read_metrics())
        time.sleep(NOTICE_S)
        cluster.remove_node(node, allow_graceful=False)
        assert job.wait() == 0, job.text
    announced = events_of(job.directory, "preemption_announced")
    assert announced and announced[0]["ranks"] == [1]
    saved = [event["step"] for event in events_of(job.directory, "checkpoint_committed")]
    resumed = read_attempts(job.directory)[1].resumed_from_step
    assert saved[0] >= noticed and resumed > saved[0], "the second one, of just before the deadline"
    assert len([*job.directory.read_metrics()]) == config.train.num_steps, "no step was trained twice"
    assert not [each for each in events_of(job.directory, "notice") if "started again" in each["text"]], "a failure"
    assert_as_undisturbed(job.directory, undisturbed_long)


def test_fewer_machines(cluster: Any, undisturbed_long: RunDirectory, scratch: Path) -> None:
    """One of two machines goes without a notice, none replaces it: the run goes on with one worker (losses to 1e-5)."""
    add_nodes(cluster, 2)
    full = long_config(scratch, "elastic")
    config = replace(full, workers=replace(full.workers, min_workers=1, max_failures=3))
    with ray_job(config, scratch, "--address", cluster.address) as job:
        job.wait_until(step_reached(15))
        cluster.remove_node(node_of(cluster, read_attempts(job.directory)[0].pids[1]), allow_graceful=False)
        assert job.wait() == 0, job.text
    first, *others = read_attempts(job.directory)
    assert first.world_size == 2 and others[-1].world_size == 1 and others[-1].resumed_from_step >= 10
    losses, expected = (
        {r["step"]: r["loss"] for _, r in run.read_metrics()} for run in (job.directory, undisturbed_long)
    )
    assert losses == pytest.approx(expected, rel=1e-5)
