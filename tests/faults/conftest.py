"""One nursery and one undisturbed run for all fault tests of a process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.config import TrainingConfig
from pipelines.training.run_directory import RunDirectory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import tiny_config
from tests.faults.lives import Nursery
from vamba.parallel.config import ParallelConfig

NUM_STEPS, EVERY = 12, 3


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faults")
    write_dataset(root / "data", [make_sample(i, num_frames=2 + i % 3) for i in range(16)])
    return root


@pytest.fixture(scope="session")
def nursery(scratch: Path) -> Iterator[Nursery]:
    with Nursery(scratch) as started:
        yield started


@pytest.fixture(scope="session")
def undisturbed(nursery: Nursery, scratch: Path) -> RunDirectory:
    return nursery.finish(faulty_config(scratch, "undisturbed"))


@pytest.fixture
def config(request: pytest.FixtureRequest, scratch: Path) -> TrainingConfig:
    """A run of the test's own."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")
    return faulty_config(scratch, name)


def faulty_config(scratch: Path, name: str) -> TrainingConfig:
    tiny = tiny_config(scratch / "data", scratch, name, num_steps=NUM_STEPS, every=EVERY)
    parallel = ParallelConfig(reshard_after_forward=False, min_unit_parameters=1_000_000)
    return replace(tiny, parallel=parallel, plan=replace(tiny.plan, packs_per_step=2))
