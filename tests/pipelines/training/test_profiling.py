"""A profile on demand: files that can be opened, and the same losses as without."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from pipelines.training.json_lines import append_line
from pipelines.training.profiling import Profiling, request_profile
from pipelines.training.run_directory import RunDirectory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train


def losses(directory: RunDirectory) -> list[tuple[float, float]]:
    return [(record["loss"], record["grad_norm"]) for _, record in directory.read_metrics()]


@pytest.mark.slow
def test_profiled_steps_compute_what_they_would_have(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", [make_sample(i) for i in range(8)])
    plain, profiled = (
        tiny_config(tmp_path / "data", tmp_path, name, num_steps=5, every=5) for name in ("plain", "profiled")
    )
    undisturbed, directory = open_run(plain), open_run(profiled)
    request_profile(directory, 2)
    train(1, Job(config=plain), Job(config=profiled), scratch=tmp_path)
    assert losses(directory) == losses(undisturbed)
    assert not directory.profile_path.exists()
    trace = json.loads(gzip.decompress((directory.profiles / "steps-000002-000003.trace.json.gz").read_bytes()))
    names = {event.get("name", "") for event in trace["traceEvents"]}
    assert "aten::mm" in names and any("backward" in name.lower() for name in names)
    assert "aten::addmm" in (directory.profiles / "steps-000002-000003.txt").read_text()
    (event,) = [event for event in directory.read_events() if event["event"] == "profiled"]
    assert (event["first_step"], event["last_step"]) == (2, 3)


@pytest.mark.parametrize("num_steps", [0, 101])
def test_a_profile_has_its_bounds(tmp_path: Path, num_steps: int) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        request_profile(RunDirectory(tmp_path), num_steps)


def test_steps_that_are_ahead_are_waited_for(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    request_profile(directory, 2, first_step=4)
    profiling = Profiling(directory, on_gpu=False)
    for step in range(1, 7):
        profiling.after_step(step)
    assert {path.suffix for path in directory.profiles.iterdir()} == {".gz", ".txt"}
    assert (directory.profiles / "steps-000004-000005.txt").is_file() and not directory.profile_path.exists()


def test_steps_that_are_past_are_refused(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    directory.metrics.mkdir()
    append_line(directory.metrics_path(1), {"step": 12})
    with pytest.raises(ValueError, match="--from is 12.*trained step 12"):
        request_profile(directory, 2, first_step=12)


def test_a_run_that_ends_early_leaves_the_steps_there_were(tmp_path: Path) -> None:
    directory = RunDirectory(tmp_path)
    request_profile(directory, 10)
    profiling = Profiling(directory, on_gpu=False)
    profiling.after_step(4)
    profiling.after_step(5)
    profiling.close(5)
    assert {path.name for path in directory.profiles.iterdir()} == {
        "steps-000005-000005.trace.json.gz", "steps-000005-000005.txt"
    }  # fmt: skip
