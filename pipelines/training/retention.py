"""Which checkpoints of a run are kept: a pure rule over their steps."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """keep_last: that many of the newest. keep_every_steps: those at multiples of it, for good; 0 keeps none so.
    keep_best: that many of those with the lowest evaluation loss.

    Pinned checkpoints are kept as well.
    """

    keep_last: int = 3
    keep_every_steps: int = 0
    keep_best: int = 1

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"checkpoints.keep_last is {self.keep_last}, but a run needs at least its newest one.")
        for name in ("keep_every_steps", "keep_best"):
            if getattr(self, name) < 0:
                raise ValueError(f"checkpoints.{name} is {getattr(self, name)}; use 0 (none) or more.")

    def expired(
        self,
        steps: Iterable[int],
        pinned: Collection[int] = (),
        *,
        passing: Collection[int] = (),
        losses: Mapping[int, float] | None = None,
    ) -> list[int]:
        """The steps whose checkpoints may go, oldest first.

        passing: those that only a stop brought about. The newest `keep_last` are counted with them and also without, so
        that what a guard can go back to is the same in a run that was stopped and in one that was not.
        losses: evaluation losses by step.
        """
        ordered = sorted(steps)
        lasting = [step for step in ordered if step not in passing]
        newest = {*ordered[-self.keep_last :], *lasting[-self.keep_last :]}
        kept = {*newest, *pinned, *self.best(ordered, losses or {})}
        if self.keep_every_steps:
            kept.update(step for step in ordered if step % self.keep_every_steps == 0)
        return [step for step in ordered if step not in kept]

    def best(self, steps: Iterable[int], losses: Mapping[int, float]) -> list[int]:
        """The `keep_best` steps of the lowest loss, best first; of equal ones the earlier."""
        known = [(losses[step], step) for step in steps if math.isfinite(losses.get(step, math.nan))]
        return [step for _, step in sorted(known)[: self.keep_best]]
