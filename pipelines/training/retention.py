"""Which checkpoints of a run are kept: a pure rule over their steps."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """keep_last: that many of the newest. keep_every_steps: those at multiples of it, for good; 0 keeps none so.

    Pinned checkpoints are kept as well.
    """

    keep_last: int = 3
    keep_every_steps: int = 0

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"checkpoints.keep_last is {self.keep_last}, but a run needs at least its newest one.")
        if self.keep_every_steps < 0:
            raise ValueError(f"checkpoints.keep_every_steps is {self.keep_every_steps}; use 0 (none) or more.")

    def expired(self, steps: Iterable[int], pinned: Collection[int] = ()) -> list[int]:
        """The steps whose checkpoints may go, oldest first."""
        ordered = sorted(steps)
        kept = {*ordered[-self.keep_last :], *pinned}
        if self.keep_every_steps:
            kept.update(step for step in ordered if step % self.keep_every_steps == 0)
        return [step for step in ordered if step not in kept]
