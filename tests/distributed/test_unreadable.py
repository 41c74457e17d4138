"""A sample that can't be read, found by one of two ranks: both go on without it, both know, both stop at the budget."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.run_directory import RunDirectory, run_directory
from tests.distributed.dataset import make_sample, write_dataset
from tests.distributed.processes import Job, open_run, tiny_config, train

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

BROKEN = 5


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunDirectory]:
    root = tmp_path_factory.mktemp("unreadable")
    rows = write_dataset(root / "data", [make_sample(i, num_frames=2 + i % 5) for i in range(16)]).samples
    with (root / "data" / "shards" / rows[BROKEN].shard).open("r+b") as file:
        file.seek(rows[BROKEN].offset_bytes)
        file.write(b"?" * 1024)
    configs = {}
    for name in ("one", "two"):
        config = tiny_config(root / "data", root, name, num_steps=8, every=4)
        configs[name] = replace(config, reader=replace(config.reader, max_unreadable_samples=1))
        open_run(configs[name])
    train(2, Job(config=configs["two"]), scratch=root)
    train(1, Job(config=configs["one"]), scratch=root)
    return {name: run_directory(str(root), name) for name in configs}


def test_every_step_names_it_and_goes_on(runs: dict[str, RunDirectory]) -> None:
    for directory in runs.values():
        records = [record for _, record in directory.read_metrics()]
        assert len(records) == 8
        name = f"clip-{BROKEN:04d}"
        assert all(r["unreadable"] == ([name] if name in r["sample_ids"] else []) for r in records)
        assert any(r["unreadable"] for r in records)


def test_two_ranks_train_as_one_does(runs: dict[str, RunDirectory]) -> None:
    losses = [{r["step"]: r["loss"] for _, r in directory.read_metrics()} for directory in runs.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_the_events_say_where_and_why(runs: dict[str, RunDirectory]) -> None:
    for directory in runs.values():
        events = [e for e in directory.read_events() if e["event"] == "sample_unreadable"]
        assert events and all(e["id"] == f"clip-{BROKEN:04d}" and e["shard"] == "shard-000000.tar" for e in events)
        assert "no tar header" in events[0]["reason"]


def test_one_more_ends_the_run(runs: dict[str, RunDirectory], tmp_path: Path) -> None:
    source = runs["one"].root.parents[1]
    config = replace(tiny_config(source / "data", tmp_path, "strict", num_steps=8))
    open_run(config)
    with pytest.raises(ValueError, match=f"Sample 'clip-{BROKEN:04d}'"):
        train(1, Job(config=config), scratch=tmp_path)
