"""On a cluster, training looks for room before its workers are started; on this machine there is always room."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.capacity import Needs
from pipelines.training import ray_launch
from pipelines.training.config import TrainingConfig, WorkersConfig
from pipelines.training.run_directory import run_directory

CONFIG = TrainingConfig(name="r", data="d", workers=WorkersConfig(num_workers=8, min_workers=2, cpus=2.0))


class Started(Exception):
    """Workers would be started now."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Needs]:
    found: list[Needs] = []

    def start(*arguments: Any) -> None:
        raise Started

    monkeypatch.setattr(ray_launch, "ray_session", lambda *arguments: nullcontext())
    monkeypatch.setattr(ray_launch, "require_room_here", lambda needs, notice: found.append(needs))
    monkeypatch.setattr(ray_launch, "_fit", start)
    return found


def _train(tmp_path: Path, config: TrainingConfig = CONFIG) -> None:
    directory = run_directory(str(tmp_path), config.name)
    directory.root.mkdir(parents=True)
    ray_launch.train_on_ray(config, directory, None, lambda text: None)  # type: ignore[arg-type]


def test_a_cluster_is_asked_for_the_fewest_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Needs]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    with pytest.raises(Started):
        _train(tmp_path)
    assert [(needs.workers, needs.fewest, needs.cpus, needs.gpus) for needs in asked] == [(8, 2, 2.0, 0.0)]


def test_this_machine_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Needs]) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with pytest.raises(Started):
        _train(tmp_path)
    assert not asked


def test_no_room_ends_the_job_before_a_worker_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: list[Needs]
) -> None:
    def refuse(needs: Needs, notice: Any) -> None:
        raise ValueError("train needs 8 GPUs")

    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    monkeypatch.setattr(ray_launch, "require_room_here", refuse)
    with pytest.raises(ValueError, match="needs 8 GPUs"):
        _train(tmp_path, replace(CONFIG, workers=replace(CONFIG.workers, min_workers=None)))
