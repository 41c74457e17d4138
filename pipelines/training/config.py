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
class LoraConfig:
    """Low-rank adapters, trained in place of the weights they stand beside. Needs the extra `lora` (peft).

    rank: of every adapter. alpha: its output is scaled by alpha / rank. dropout: of its input, while training.
    target_modules: regular expressions, each matched against the whole name of a linear layer.
    """

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: tuple[str, ...] = (r"model\.layers\.\d+\.(self_attn|cross_attn|mlp)\.\w+_proj",)

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                f"model.lora: rank {self.rank} must be at least 1, alpha {self.alpha} above 0, and dropout "
                f"{self.dropout} from 0 to below 1."
            )
        if not self.target_modules:
            raise ValueError("model.lora.target_modules is empty: name at least one pattern.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """Which model is trained.

    preset: architecture by name ("tiny", "small", "qwen2_vl_7b").
    overrides: keys of that architecture's config.json to change.
    init_from: a model in release layout to start from (directory, run name or its `model/`, `models:/NAME@alias` or
        `models:/NAME/VERSION`), found at the first start and pinned; None initialises from train.seed.
    tokenizer: directory of the tokenizer; None takes the model's own, or the tiny one shipped for the preset.
    lora: train adapters instead of `train.trainable`; None trains weights.
    """

    preset: str = "tiny"
    overrides: dict[str, Any] = field(default_factory=dict)
    init_from: str | None = None
    tokenizer: str | None = None
    lora: LoraConfig | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillConfig:
    """Training towards a teacher's cached logits, beside the labels.

    teachers: URI of a directory that `pipelines.training.teachers.write_teachers` wrote, with every training sample.
    coeff: weight of the divergence from the teacher; 0 leaves the labels alone.
    """

    teachers: str
    coeff: float = 1.0

    def __post_init__(self) -> None:
        if not self.coeff >= 0:
            raise ValueError(f"distill.coeff is {self.coeff}; it must be 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkersConfig:
    """The processes that train.

    num_workers: ranks. device: "cpu" (gloo) or "cuda" (nccl). threads: compute threads of a rank.
    min_workers: on a cluster, train with as few where there is no room for num_workers; None waits for all of them.
    look_for_room_every_s: how often a group of fewer workers looks for room for more. Growing is a restart from the
        newest checkpoint.
    max_failures: how often the group is restarted after a worker died, without a new checkpoint in between.
    cpus: CPUs that Ray reserves for a rank.
    hang_timeout_s: without progress for so long, a rank writes down what its threads do and ends, and the group starts
        again; the first step, saving and evaluation get two to three times as long. 0 never ends one.
    preemption_grace_s: how long a machine is thought to live after a preemption notice that names no deadline.
    gpu_memory_gb: memory of a GPU, in GiB as its maker counts it (80 for an H100); a run that would need more is
        refused before it starts. None checks nothing.
    peak_tflops: what one rank's device could do at most, in 10^12 operations a second, for the utilisation (MFU); None
        takes it from a table of GPUs, and leaves the utilisation out for what is not in there.
    """

    num_workers: int = 2
    min_workers: int | None = None
    look_for_room_every_s: float = 60.0
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    cpus: float = 1.0
    max_failures: int = 8
    hang_timeout_s: float = 1800.0
    preemption_grace_s: float = 30.0
    gpu_memory_gb: float | None = None
    peak_tflops: float | None = None

    def __post_init__(self) -> None:
        for name in ("num_workers", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"workers.{name} is {getattr(self, name)}; it must be at least 1.")
        for name in ("hang_timeout_s", "preemption_grace_s", "look_for_room_every_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"workers.{name} is {getattr(self, name)}; use 0 or more seconds.")
        if self.min_workers is not None and not 1 <= self.min_workers <= self.num_workers:
            raise ValueError(
                f"workers.min_workers is {self.min_workers}: it must be between 1 and workers.num_workers "
                f"({self.num_workers})."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingConfig:
    """MLflow. enabled: off leaves the run directory as the only record. experiment: name of the experiment.

    The tracking URI comes from MLFLOW_TRACKING_URI; unset, it is a SQLite file in the VAMBA_HOME of the first start.
    flush_every_s: pause between two batches of metrics.
    detail_every_steps: distance of the steps whose gradient norms by group and alphas by layer are sent; the run
        directory has them of every step.
    machine_every_s: distance of the samples of the job's machine: processors, memory, GPUs.
    """

    enabled: bool = True
    experiment: str = "vamba"
    flush_every_s: float = 2.0
    detail_every_steps: int = 10
    machine_every_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("flush_every_s", "detail_every_steps", "machine_every_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"tracking.{name} is {getattr(self, name)}, but it must be above 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """One run.

    name: of the run; the same name continues it. recipe: where the values came from, recorded only.
    data: URI of a dataset that `vamba ingest` wrote. storage: directory that holds `runs/`; None means VAMBA_HOME.
    mirror: URI below which the run's checkpoints and records are copied while it trains, and from which they come back
        where the run directory is gone; None copies nothing.
    backends: implementations of scan, convolution and attention by name; "auto" takes the first of a written order that
        runs on the worker's device.
    distill: a teacher to learn from beside the labels; None for none.
    """

    name: str
    data: str
    recipe: str = ""
    storage: str | None = None
    mirror: str | None = None
    model: ModelSource = field(default_factory=ModelSource)
    backends: Backends = field(default_factory=Backends)
    reader: ReaderConfig = field(default_factory=ReaderConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    distill: DistillConfig | None = None
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    workers: WorkersConfig = field(default_factory=WorkersConfig)
    checkpoints: Retention = field(default_factory=Retention)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)

    def __post_init__(self) -> None:
        if not RUN_NAME.fullmatch(self.name):
            raise ValueError(
                f"Run name {self.name!r} must match {RUN_NAME.pattern}: lower-case letters, digits, '-', '_' and '.'."
            )
