"""How a step trains: schedule, optimizer, trainable set. Data and places are the business of the layers above."""

from __future__ import annotations

import math
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW with cosine decay.

    learning_rate: peak. min_learning_rate_ratio: final rate divided by the peak.
    warmup_ratio: share of all steps over which the rate rises linearly.
    weight_decay: decoupled; never applied to A_log, D, dt_bias, alpha, norms and biases.
    betas, eps: Adam's. clip_norm: upper bound of the global gradient norm.
    """

    learning_rate: float = 1e-5
    min_learning_rate_ratio: float = 0.0
    warmup_ratio: float = 0.03
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "clip_norm", "eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"train.optimizer.{name} is {getattr(self, name)}, but it must be above 0.")
        for name in ("warmup_ratio", "min_learning_rate_ratio"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"train.optimizer.{name} is {getattr(self, name)}, but it is a share: 0 to 1.")

    def rate(self, step: int, num_steps: int) -> float:
        """Learning rate of the update that makes step `step` (0-based) of `num_steps`."""
        num_warmup = math.ceil(self.warmup_ratio * num_steps)
        if step < num_warmup:
            return self.learning_rate * (step + 1) / num_warmup
        progress = (step - num_warmup) / max(1, num_steps - num_warmup)
        floor = self.min_learning_rate_ratio
        return self.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One stage of training.

    num_steps: optimizer steps; 0 means `num_epochs` decides. num_epochs: passes over the training split.
    seed: of the data order and of every random number in training.
    trainable: regular expressions, each matched against the whole parameter name; what none matches is frozen.
    expected_trainable: number of trainable scalars the recipe counts on; None accepts any number.
    checkpoint_every_steps: distance of checkpoints.
    """

    num_steps: int = 0
    num_epochs: int = 1
    seed: int = 0
    trainable: tuple[str, ...] = (r".*",)
    expected_trainable: int | None = None
    checkpoint_every_steps: int = 50
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.num_epochs < 1:
            raise ValueError(
                f"train.num_steps = {self.num_steps} and train.num_epochs = {self.num_epochs}: steps must be 0 (epochs "
                "decide) or more, epochs at least 1."
            )
        if self.checkpoint_every_steps < 1:
            raise ValueError(f"train.checkpoint_every_steps is {self.checkpoint_every_steps}; use 1 or more.")
        if not self.trainable:
            raise ValueError("train.trainable is empty: name at least one pattern, for example '.*' for everything.")
