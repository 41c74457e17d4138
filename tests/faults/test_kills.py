"""SIGKILL at moments drawn from a seed, also within the write of a checkpoint: nothing is lost, doubled or changed."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from tests.faults.conftest import faulty_config
from tests.faults.lives import Nursery, assert_as_undisturbed

pytestmark = pytest.mark.timeout(150)

# Of the run's changes of its files.
SEEDS = range(int(os.environ.get("VAMBA_TEST_KILLS", "2")))
MOST_DEATHS = 3
LONGEST_WRITE_S = 0.01


@pytest.fixture(scope="module")
def num_moments(nursery: Nursery, scratch: Path) -> int:
    """How often an undisturbed run changes its files."""
    path = scratch / "count.txt"
    life = nursery.start(faulty_config(scratch, "counted"), fault={"count": str(path)})
    assert life.wait() == (0,), life.output.read_text()
    return int(path.read_text())


@pytest.mark.parametrize("seed", SEEDS)
def test_deaths_at_any_moment(
    nursery: Nursery, config: TrainingConfig, undisturbed: RunDirectory, num_moments: int, seed: int
) -> None:
    """SIGKILL three times at changes of the run's files and within writes of checkpoints, drawn from a seed."""
    drawn = random.Random(seed)
    for _ in range(MOST_DEATHS):
        delay_s = drawn.choice((0.0, drawn.uniform(0.0, LONGEST_WRITE_S)))
        fault = {"moment": drawn.randint(1, num_moments), "delay_s": delay_s}
        life = nursery.start(config, fault=fault)
        assert life.wait()[0] in (-signal.SIGKILL, 0), life.output.read_text()
    assert_as_undisturbed(nursery.finish(config), undisturbed)
