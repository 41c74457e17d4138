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
class GuardConfig:
    """When a step is skipped and when the run goes back to an earlier checkpoint (`vamba.train.guard`).

    enabled: off, a loss or gradient that is not finite ends the run, and nothing else is watched.
    max_non_finite: that many steps with a loss or gradient that is not finite are skipped within
        non_finite_window_steps steps; one more, and the run goes back.
    spike_sigma: a loss that many standard deviations above the mean of the window is a spike; 0 watches for none.
    spike_min_rise: nats that a spike must be above that mean whatever the deviation: where losses are near zero, one
        wrong answer is many deviations.
    window_steps: accepted losses that are remembered, for each medium. min_observations: before that many, none is a
        spike.
    max_rewinds: how often a run may go back.
    """

    enabled: bool = True
    max_non_finite: int = 3
    non_finite_window_steps: int = 100
    spike_sigma: float = 6.0
    spike_min_rise: float = 0.5
    window_steps: int = 128
    min_observations: int = 32
    max_rewinds: int = 5

    def __post_init__(self) -> None:
        for name in ("max_non_finite", "spike_sigma", "spike_min_rise", "max_rewinds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"train.guard.{name} is {getattr(self, name)}; use 0 or more.")
        if self.non_finite_window_steps < 1:
            raise ValueError(f"train.guard.non_finite_window_steps is {self.non_finite_window_steps}; use 1 or more.")
        if not 2 <= self.min_observations <= self.window_steps:
            raise ValueError(
                f"train.guard.min_observations is {self.min_observations} and train.guard.window_steps "
                f"{self.window_steps}: a deviation needs 2 observations or more, and a window that can hold them."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationConfig:
    """What an evaluation in training reads. max_packs: of the validation split, the same ones each time."""

    max_packs: int = 64

    def __post_init__(self) -> None:
        if self.max_packs < 1:
            raise ValueError(
                f"train.evaluation.max_packs is {self.max_packs}; use 1 or more, or train.evaluate_every_steps=0."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """One stage of training.

    num_steps: optimizer steps; 0 means `num_epochs` decides. num_epochs: passes over the training split.
    seed: of the data order and of every random number in training.
    trainable: regular expressions, each matched against the whole parameter name; what none matches is frozen.
    expected_trainable: number of trainable scalars the recipe counts on; None accepts any number.
    checkpoint_every_steps: distance of checkpoints.
    evaluate_every_steps: distance of evaluations on the validation split; 0 makes none.
    """

    num_steps: int = 0
    num_epochs: int = 1
    seed: int = 0
    trainable: tuple[str, ...] = (r".*",)
    expected_trainable: int | None = None
    checkpoint_every_steps: int = 50
    evaluate_every_steps: int = 0
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)

    def __post_init__(self) -> None:
        if self.num_steps < 0 or self.num_epochs < 1:
            raise ValueError(
                f"train.num_steps = {self.num_steps} and train.num_epochs = {self.num_epochs}: steps must be 0 (epochs "
                "decide) or more, epochs at least 1."
            )
        if self.checkpoint_every_steps < 1:
            raise ValueError(f"train.checkpoint_every_steps is {self.checkpoint_every_steps}; use 1 or more.")
        every, saved = self.evaluate_every_steps, self.checkpoint_every_steps
        if every < 0 or (every % saved and saved % every):
            raise ValueError(
                f"train.evaluate_every_steps is {every} and train.checkpoint_every_steps {saved}: use 0 (none), or let "
                "one be a multiple of the other, so that evaluated steps have checkpoints to keep."
            )
        if not self.trainable:
            raise ValueError("train.trainable is empty: name at least one pattern, for example '.*' for everything.")
