"""One nursery and one undisturbed run for all fault tests of a process."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="session")
def undisturbed_long(nursery: Nursery, scratch: Path) -> RunDirectory:
    return nursery.finish(long_config(scratch, "undisturbed-long"), ranks=2)


@pytest.fixture
def config(request: pytest.FixtureRequest, scratch: Path) -> TrainingConfig:
    """A run of the test's own."""
    name = "".join(letter if letter.isalnum() else "-" for letter in request.node.name.lower()).strip("-")
    return faulty_config(scratch, name)


def faulty_config(scratch: Path, name: str) -> TrainingConfig:
    tiny = tiny_config(scratch / "data", scratch, name, num_steps=NUM_STEPS, every=EVERY)
    parallel = ParallelConfig(reshard_after_forward=False, min_unit_parameters=1_000_000)
    return replace(tiny, parallel=parallel, plan=replace(tiny.plan, packs_per_step=2))


def long_config(scratch: Path, name: str) -> TrainingConfig:
    """Two ranks for a minute or so: time for a cluster to notice what was done to it."""
    config = faulty_config(scratch, name)
    train = replace(config.train, num_steps=240, checkpoint_every_steps=10)
    workers = replace(config.workers, num_workers=2)
    return replace(config, train=train, workers=workers, plan=replace(config.plan, packs_per_step=16))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    documentation = (getattr(getattr(item, "function", None), "__doc__", None) or "").strip()
    report.user_properties.append(("fault", documentation.partition("\n")[0]))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The fault matrix: what was done to runs, how often, and whether they came out as if it had not been."""
    rows = _rows(terminalreporter.stats)
    if not rows:
        return
    lines = ["| what happens | runs | as undisturbed |", "|---|---|---|"]
    lines += [f"| {what} | {passed + failed} | {'yes' if not failed else f'NO: {failed} failed'} |"
              for what, (passed, failed) in rows.items()]  # fmt: skip
    terminalreporter.section("fault matrix")
    terminalreporter.write_line("\n".join(lines))
    path = os.environ.get("VAMBA_FAULT_TABLE")
    if path:
        Path(path).write_text("\n".join(lines) + "\n")


def _rows(stats: Mapping[str, Sequence[Any]]) -> dict[str, tuple[int, int]]:
    rows: dict[str, tuple[int, int]] = {}
    for outcome in ("passed", "failed", "error"):
        for report in stats.get(outcome, ()):
            what = dict(report.user_properties).get("fault")
            if what:
                passed, failed = rows.get(what, (0, 0))
                rows[what] = (passed + (outcome == "passed"), failed + (outcome != "passed"))
    return rows
