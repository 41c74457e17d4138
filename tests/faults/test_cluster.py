"""What a cluster does to a run beside taking machines: its head goes, machines come back, the job is stopped."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.config import to_yaml
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.summary import read_attempts
from tests.faults.clusters import add_nodes, node_of, ray_cluster
from tests.faults.conftest import long_config
from tests.faults.lives import ROOT, assert_as_undisturbed, step_reached
from tests.faults.ray_jobs import ray_job

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(500)]

EVERY = 10


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def test_head_lost(undisturbed_long: RunDirectory, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray: the cluster's head dies: the command ends with the reason, and goes on where there is another cluster."""
    monkeypatch.setenv("RAY_gcs_rpc_server_reconnect_timeout_s", "10")  # of 60, in which a short run may end first
    config = long_config(scratch, "headless")
    with ray_cluster() as cluster:
        add_nodes(cluster, 2)
        with ray_job(config, scratch, "--address", cluster.address) as job:
            job.wait_until(step_reached(34))
            os.kill(cluster.head_node.all_processes["gcs_server"][0].process.pid, signal.SIGKILL)
            assert job.wait() != 0
            assert "GCS" in job.text
    with ray_cluster() as cluster:
        add_nodes(cluster, 2)
        with ray_job(config, scratch, "--address", cluster.address) as again:
            assert again.wait() == 0, again.text
    assert read_attempts(again.directory)[-1].resumed_from_step >= 3 * EVERY
    assert_as_undisturbed(again.directory, undisturbed_long)


def test_machine_comes_back(undisturbed_long: RunDirectory, scratch: Path) -> None:
    """One of two machines goes, another comes: the group shrinks to one worker and grows again (losses to 1e-5)."""
    full = long_config(scratch, "grows-again")
    workers = replace(full.workers, min_workers=1, max_failures=3, look_for_room_every_s=5.0)
    with ray_cluster() as cluster:
        add_nodes(cluster, 2)
        with ray_job(replace(full, workers=workers), scratch, "--address", cluster.address) as job:
            job.wait_until(step_reached(15))
            cluster.remove_node(node_of(cluster, read_attempts(job.directory)[0].pids[1]), allow_graceful=False)
            job.wait_until(world_size_reached(1))
            add_nodes(cluster, 1)
            assert job.wait() == 0, job.text
    sizes = [attempt.world_size for attempt in read_attempts(job.directory)]
    assert sizes[0] == sizes[-1] == 2 and 1 in sizes
    losses, expected = (
        {r["step"]: r["loss"] for _, r in run.read_metrics()} for run in (job.directory, undisturbed_long)
    )
    assert losses == pytest.approx(expected, rel=1e-5)


def test_job_stopped(undisturbed_long: RunDirectory, scratch: Path) -> None:
    """`ray job stop`: saved before the job ends, no step trained twice when it is submitted again."""
    from ray.job_submission import JobStatus, JobSubmissionClient

    config = long_config(scratch, "job-stop")
    directory = run_directory(config.storage, config.name)
    recipe = scratch / "job-stop.yaml"
    recipe.write_text(to_yaml(config))
    entrypoint = f"{sys.executable} -m jobs train {recipe} --data {config.data} --name {config.name}"
    with ray_cluster(include_dashboard=True, dashboard_port=0) as cluster:
        add_nodes(cluster, 2)
        client = JobSubmissionClient(f"http://{cluster.head_node.address_info['webui_url']}")
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}, "working_dir": None}
        ended = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.STOPPED)

        def submit() -> str:
            return str(client.submit_job(entrypoint=entrypoint, runtime_env=environment))

        def wait_for_end(job: str) -> JobStatus:
            deadline = time.monotonic() + 200
            while (status := client.get_job_status(job)) not in ended:
                assert time.monotonic() < deadline, client.get_job_logs(job)
                time.sleep(0.2)
            return status

        first = submit()
        deadline = time.monotonic() + 200
        while not step_reached(34)(directory):
            assert client.get_job_status(first) not in ended and time.monotonic() < deadline, client.get_job_logs(first)
            time.sleep(0.05)
        assert client.stop_job(first)
        assert wait_for_end(first) == JobStatus.STOPPED, client.get_job_logs(first)
        assert directory.stop_path.exists() or "saved" in client.get_job_logs(first), client.get_job_logs(first)
        second = submit()
        assert wait_for_end(second) == JobStatus.SUCCEEDED, client.get_job_logs(second)
    assert len([*directory.read_metrics()]) == config.train.num_steps
    assert_as_undisturbed(directory, undisturbed_long)


def world_size_reached(size: int) -> Callable[[RunDirectory], bool]:
    """Whether the newest group has that many workers."""
    return lambda directory: read_attempts(directory)[-1].world_size == size
