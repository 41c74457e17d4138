"""Runs a training configuration in several gloo processes, for tests that compare world sizes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.training.config import ModelSource, TrackingConfig, TrainingConfig
from pipelines.training.run_directory import RunDirectory, run_directory
from pipelines.training.session import open_training_data, train_rank
from vamba.data.plan import PlanConfig
from vamba.parallel.config import ParallelConfig
from vamba.train.config import OptimizerConfig, TrainConfig


def tiny_config(data: Path, storage: Path, name: str, *, num_steps: int = 10, every: int = 5) -> TrainingConfig:
    """The tiny model, every unit sharded on its own, four packs a step."""
    return TrainingConfig(
        name=name,
        data=str(data),
        storage=str(storage),
        model=ModelSource(preset="tiny"),
        plan=PlanConfig(tokens_per_pack=200, packs_per_step=4),
        train=TrainConfig(
            num_steps=num_steps, checkpoint_every_steps=every, optimizer=OptimizerConfig(learning_rate=1e-3)
        ),
        parallel=ParallelConfig(reshard_after_forward=True, min_unit_parameters=0),
        tracking=TrackingConfig(enabled=False),
    )


def open_run(config: TrainingConfig) -> RunDirectory:
    directory = run_directory(config.storage, config.name)
    directory.clear_requests()
    directory.open(config, data_digest=open_training_data(config).digest)
    return directory


def resume_from(source: RunDirectory, config: TrainingConfig, step: int) -> RunDirectory:
    """A new run that has the checkpoints of `source` up to `step`, as if its job had died just after."""
    directory = open_run(config)
    for checkpoint in source.checkpoints.glob("step_*"):
        if int(checkpoint.name.removeprefix("step_")) <= step:
            shutil.copytree(checkpoint, directory.checkpoints / checkpoint.name)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A run to train: from the start (opened by the caller), or from a checkpoint of another run."""

    config: TrainingConfig
    resume_from: str | None = None
    step: int = 0


Surroundings = Callable[[], AbstractContextManager[Any]]


def train(world_size: int, *jobs: Job, scratch: Path, within: Surroundings = nullcontext) -> None:
    """Train the runs one after the other, in one group of `world_size` processes.

    within: a function of a module, for a context in which each process trains.
    """
    if world_size == 1:
        with within():
            for job in jobs:
                _train_one(job, rank=0)
        return
    import torch.multiprocessing as mp

    rendezvous = scratch / f"rendezvous-{os.urandom(4).hex()}"
    mp.spawn(_process, args=(world_size, str(rendezvous), jobs, within), nprocs=world_size, join=True)


def replicated(config: TrainingConfig, copies: int) -> TrainingConfig:
    return replace(config, parallel=replace(config.parallel, replicate=copies))


def _process(rank: int, world_size: int, rendezvous: str, jobs: tuple[Job, ...], within: Surroundings) -> None:
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=world_size)
    with within():
        for job in jobs:
            _train_one(job, rank)
    dist.destroy_process_group()


def _train_one(job: Job, rank: int) -> None:
    import torch.distributed as dist

    if job.resume_from and rank == 0:
        resume_from(run_directory(job.config.storage, job.resume_from), job.config, job.step)
    if dist.is_initialized():
        dist.barrier()
    train_rank(job.config, run_directory(job.config.storage, job.config.name))
