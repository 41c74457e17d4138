"""Under Ray: what is killed, stopped, frozen or drained, and that the run goes on as if it had not been."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from pipelines.training.summary import read_attempts
from tests.faults.conftest import faulty_config
from tests.faults.lives import Nursery, assert_as_undisturbed, events_of, step_reached
from tests.faults.ray_jobs import ray_job

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(400)]

NUM_STEPS, EVERY, KILL_AFTER = 120, 10, 34


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, scratch: Path) -> RunDirectory:
    """Two ranks without Ray: the same numbers to the last bit."""
    return nursery.finish(longer(faulty_config(scratch, "undisturbed-two")), ranks=2)


@pytest.fixture
def config(request: pytest.FixtureRequest, scratch: Path) -> TrainingConfig:
    return longer(faulty_config(scratch, request.node.name.lower().replace("_", "-")))


def longer(config: TrainingConfig) -> TrainingConfig:
    train = replace(config.train, num_steps=NUM_STEPS, checkpoint_every_steps=EVERY)
    return replace(config, train=train, workers=replace(config.workers, num_workers=2))


def test_worker_killed(config: TrainingConfig, undisturbed: RunDirectory, scratch: Path) -> None:
    """Ray: SIGKILL of a worker."""
    with ray_job(config, scratch) as job:
        job.wait_until(step_reached(KILL_AFTER))
        os.kill(read_attempts(job.directory)[0].pids[1], signal.SIGKILL)
        assert job.wait() == 0, job.text
    assert [attempt.resumed_from_step >= EVERY for attempt in read_attempts(job.directory)] == [False, True]
    assert_as_undisturbed(job.directory, undisturbed)


def test_driver_killed(config: TrainingConfig, undisturbed: RunDirectory, scratch: Path) -> None:
    """Ray: SIGKILL of the driver alone.

    Ray's processes notice by themselves, and the next job waits until the workers are gone."""
    with ray_job(config, scratch) as job:
        job.wait_until(step_reached(KILL_AFTER))
        job.process.kill()
        job.process.wait()
        with ray_job(config, scratch) as again:
            assert again.wait() == 0, again.text
    assert read_attempts(job.directory)[1].resumed_from_step >= EVERY
    assert_as_undisturbed(job.directory, undisturbed)


def test_raylet_killed(config: TrainingConfig, undisturbed: RunDirectory, scratch: Path) -> None:
    """Ray: SIGKILL of the raylet.

    Ray on this machine is gone with it. The job starts another, or says so and the same command does."""
    with ray_job(config, scratch) as job:
        job.wait_until(step_reached(KILL_AFTER))
        os.kill(job.child("raylet"), signal.SIGKILL)
        if job.wait() != 0:
            assert "raylet" in job.text.lower() or "ray" in job.text.lower()
            with ray_job(config, scratch) as again:
                assert again.wait() == 0, again.text
    assert_as_undisturbed(job.directory, undisturbed)


def test_worker_frozen(config: TrainingConfig, undisturbed: RunDirectory, scratch: Path) -> None:
    """Ray: a worker freezes (SIGSTOP), the other waits for it: named, ended, and the group started again.

    A rank that doesn't even answer the watchdog of the other, which waits for it in a collective operation."""
    impatient = replace(config, workers=replace(config.workers, hang_timeout_s=8.0))
    with ray_job(impatient, scratch) as job:
        job.wait_until(step_reached(KILL_AFTER))
        frozen = psutil.Process(read_attempts(job.directory)[0].pids[1])
        frozen.suspend()
        assert job.wait() == 0, job.text
        assert not frozen.is_running()
    (hung,) = events_of(job.directory, "worker_hung")
    assert hung["suspects"] == [1]
    assert len(read_attempts(job.directory)) == 2
    assert_as_undisturbed(job.directory, undisturbed)


def test_sigterm(config: TrainingConfig, undisturbed: RunDirectory, scratch: Path) -> None:
    """Ray: SIGTERM of the driver: saved, exit code 75, no step trained twice.

    What `ray job stop` and Kubernetes send: saved, 75, and not a step is trained twice."""
    with ray_job(config, scratch) as job:
        job.wait_until(step_reached(KILL_AFTER))
        job.process.terminate()
        assert job.wait() == 75, job.text
        with ray_job(config, scratch) as again:
            assert again.wait() == 0, again.text
    assert len([*job.directory.read_metrics()]) == NUM_STEPS
    assert_as_undisturbed(job.directory, undisturbed)
