"""The configuration of one training run, from the data it reads to the workers that run it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from pipelines.training.retention import Retention
from vamba.data.plan import PlanConfig
from vamba.data.reader_config import ReaderConfig
from vamba.ops.backends import Backends
from vamba.parallel.config import ParallelConfig
from vamba.train.config import TrainConfig

RUN_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model is trained.

    preset: architecture by name ("tiny", "small", "qwen2_vl_7b").
    overrides: keys of that architecture's config.json to change.
    init_from: a model in release layout to start from (directory, run name or its `model/`); None initialises
        from train.seed.
    tokenizer: directory of the tokenizer; None takes the model's own, or the tiny one shipped for the preset.
    """

    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """The processes that train.

    num_workers: ranks. device: "cpu" (gloo) or "cuda" (nccl). threads: compute threads of a rank.
    min_workers: on a cluster, train with as few where there is no room for num_workers; None waits for all of them.
    max_failures: how often the group is restarted after a worker died, without a new checkpoint in between.
    cpus: CPUs that Ray reserves for a rank.
    hang_timeout_s: without progress for so long, a rank writes down what its threads do and ends, and the group starts
        again; the first step, saving and evaluation get two to three times as long. 0 never ends one.
    preemption_grace_s: how long a machine is thought to live after a preemption notice that names no deadline.
    """

    num_workers: int = 2
    min_workers: int | None = None
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    cpus: float = 1.0
    max_failures: int = 8
    hang_timeout_s: float = 1800.0
    preemption_grace_s: float = 30.0

    def __post_init__(self) -> None:
        if self.hang_timeout_s < 0 or self.preemption_grace_s < 0:
            raise ValueError(
                f"workers.hang_timeout_s = {self.hang_timeout_s} and workers.preemption_grace_s = "
                f"{self.preemption_grace_s}: use 0 or more seconds."
            )
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"workers.min_workers is {self.min_workers}: it must be between 1 and workers.num_workers "
                f"({self.num_workers})."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """MLflow. enabled: off leaves the run directory as the only record. experiment: name of the experiment.

    The tracking URI comes from MLFLOW_TRACKING_URI; unset, it is a SQLite file in the storage directory.
    flush_every_s: pause between two batches of metrics.
    """

    enabled: bool = True
    experiment: str = "vamba"
    flush_every_s: float = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """One run.

    name: of the run; the same name continues it. recipe: where the values came from, recorded only.
    data: URI of a dataset that `vamba ingest` wrote. storage: directory that holds `runs/`; None means VAMBA_HOME.
    backends: implementations of scan, convolution and attention by name; "auto" takes the first of a written order that
        runs on the worker's device.
    """

    name: str
    data: str
    recipe: str = ""
    storage: str | None = None
    model: ModelSource = field(default_factory=ModelSource)
    backends: Backends = field(default_factory=Backends)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    checkpoints: Retention = field(default_factory=Retention)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.name):
            raise ValueError(
                f"Run name {self.name!r} must match {RUN_NAME.pattern}: lower-case letters, digits, '-', '_' and '.'."
            )
