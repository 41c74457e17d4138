"""What a training run would be, told before anything starts: `vamba train … --dry-run`.

Counted, not estimated, where that is possible: parameters on torch's meta device (no memory), tokens and steps from the
plan that training itself will follow.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from pipelines.training.config import TrainingConfig

_MASTER_AND_ADAM_BYTES = 4 + 4 + 4 + 4  # float32 weight, gradient, and two moments of a trained parameter


def describe_training(config: TrainingConfig) -> dict[str, str]:
    """Names and values for people. Raises ValueError for what training would refuse too."""
    from dataclasses import replace

    from pipelines.registry.models import resolve_model
    from pipelines.training.run_directory import run_directory

    if config.model.init_from:
        directory = resolve_model(config.model.init_from).directory
        config = replace(config, model=replace(config.model, init_from=str(directory)))
    steps = _steps(config)
    run = run_directory(config.storage, config.name)
    started = run.run_path.exists()
    return {**_parameters(config), **steps, "run": f"{run.root} ({'continues' if started else 'new'})"}


def _parameters(config: TrainingConfig) -> dict[str, str]:
    from pipelines.training.session import build_model_shell
    from vamba.ops.backends import describe
    from vamba.train.trainable import select_trainable

    model = build_model_shell(config)
    select_trainable(model, config.train.trainable, config.train.expected_trainable)
    total, trained = _count(model)
    shards = config.workers.num_workers // config.parallel.replicate
    shape = f"{config.parallel.replicate} replica(s) of {shards} shard(s)"
    state_bytes = (trained * _MASTER_AND_ADAM_BYTES + (total - trained) * 4) / shards
    return {
        "start": config.model.init_from or f"preset {config.model.preset}, initialised from seed {config.train.seed}",
        "parameters": f"{total:,}, of which {trained:,} are trained",
        "workers": f"{config.workers.num_workers} on {config.workers.device}, {shape}",
        "backends": f"{describe(config.backends)}, on the workers",
        "weights and optimizer": f"{state_bytes / 1024**3:.2f} GiB per worker, activations not counted",
    }


def _count(model: nn.Module) -> tuple[int, int]:
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(size for size, _ in sizes), sum(size for size, trained in sizes if trained)


def _steps(config: TrainingConfig) -> dict[str, str]:
    from pipelines.training.session import open_training_data

    data = open_training_data(config)
    per_epoch = data.plan.num_steps(1)
    tokens = int(data.plan.steps(0).pack_costs.sum())
    return {
        "data": f"{len(data.rows)} samples, manifest {data.digest[:19]}…",
        "packs per step": f"{config.plan.packs_per_step}, up to {config.plan.tokens_per_pack:,} tokens each",
        "tokens per step": f"{tokens / max(1, per_epoch):,.0f} on average",
        "steps": f"{data.num_steps}, {per_epoch} per epoch",
        "warm-up": f"{math.ceil(config.train.optimizer.warmup_ratio * data.num_steps)} steps",
        "checkpoints": f"every {config.train.checkpoint_every_steps} steps",
    }
