"""Which errors of a worker end the job: mistakes that a person must correct, and nothing that Ray's teardown causes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from pipelines.training import ray_launch
from pipelines.training.checkpoint_writer import CheckpointWriteError, CheckpointWriter
from pipelines.training.config import TrainingConfig
from pipelines.training.ranks import GroupEndedError, gathered
from pipelines.training.run_directory import RunDirectory


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'rendezvous'}", rank=0, world_size=1)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()


@pytest.fixture
def directory(tmp_path: Path) -> RunDirectory:
    run = RunDirectory(tmp_path / "run")
    run.stop_path.parent.mkdir(parents=True)
    return run


def work(monkeypatch: pytest.MonkeyPatch, directory: RunDirectory, train_rank: object) -> None:
    monkeypatch.setattr(ray_launch, "train_rank", train_rank)
    ray_launch.train_worker({"config": None, "directory": str(directory.root)})


def test_a_mistake_of_the_user_is_noted_and_the_next_group_does_nothing(
    group: None, directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def mistaken(*_: object) -> None:
        TrainingConfig(name="A B", data="d")

    with pytest.raises(ValueError, match="must match"):
        work(monkeypatch, directory, mistaken)
    assert "must match" in (directory.read_failure() or "")
    work(monkeypatch, directory, lambda *_: pytest.fail("the next group must not train"))


def test_what_torch_raises_in_a_group_that_is_gone_is_no_mistake_of_the_user(
    directory: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="process group"):
        work(monkeypatch, directory, lambda *_: dist.all_reduce(torch.zeros(1)))
    assert directory.read_failure() is None


def test_a_group_that_is_gone_is_never_taken_for_a_run_of_one(group: None) -> None:
    own = dist.new_group(backend="gloo")
    assert gathered("part", own) == ["part"]
    dist.destroy_process_group()
    with pytest.raises(GroupEndedError):
        gathered("part", own)


def test_a_checkpoint_is_not_committed_by_a_rank_whose_group_is_gone(group: None, tmp_path: Path) -> None:
    committed: list[object] = []
    writer = CheckpointWriter(on_commit=lambda *done: committed.append(done), on_failure=lambda *_: None)
    writer.prepare()
    writer._group = dist.new_group(backend="gloo")  # as with several ranks
    dist.destroy_process_group()
    writer.begin({"x": torch.zeros(3)}, tmp_path / "step_00000001", {"step": 1})
    with pytest.raises(CheckpointWriteError, match="step 1 .* was not finished"):
        writer.wait()
    assert not committed and not (tmp_path / "step_00000001").exists()
