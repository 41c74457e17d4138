"""Watches over a run's losses: which steps change nothing, and when the run must go back.

    judge(step, loss, gradient norm) ──> None: update
                                    ├──> "non_finite": no update; one too many in a while makes a rewind due
                                    └──> "spike": no update, and a rewind is due

A rewind restores parameters and optimizer of a checkpoint from before the first offending step, and **keeps the
position in the data**: the steps in between are consumed and not trained again, and no step number repeats with other
content.

Every number judged here is the same on all ranks, so the verdicts are too. What this object holds, and the checkpoints
that there are, decide all later verdicts: it is saved with each, and a run that resumes judges as if undisturbed.

A spike is measured against the mean and the standard deviation of the accepted losses before it. The usual objection,
that an outlier inflates both, does not apply to a window that spikes never enter: the largest loss it can accept widens
the deviation of 128 losses by an eighth. A median would trigger sooner on the skewed losses of steps with few labelled
tokens. Videos and images have a window each: a mixture of two distributions has tails that neither has. Gradient norms
are not measured, because clipping already bounds what a large one can do.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from vamba.train.config import GuardConfig

Skipped = Literal["non_finite", "spike"]


class GuardError(RuntimeError):
    """The run went back as often as it may, and would have to again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """Why a rewind is due. first_step: the first offending step; what was saved from it on is not to be trusted."""

    first_step: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewind:
    """After step `at` the run took up the parameters of step `to` (0: of the start): steps to+1 … at train nothing."""

    at: int
    to: int
    reason: str


class Guard:
    """The judge of one run. due: set by the step that makes a rewind necessary, until the rewind is done."""

    def __init__(self, config: GuardConfig) -> None:
        self.config = config
        self.due: Trouble | None = None
        self.rewinds: list[Rewind] = []
        self.non_finite: list[int] = []
        self._losses: dict[str, list[float]] = {}
        self._last_accepted = 0

    def judge(self, step: int, *, media: str, loss: float, grad_norm: float) -> Skipped | None:
        """Why step `step` (1-based) must leave the parameters alone; None if it may change them."""
        if not (math.isfinite(loss) and math.isfinite(grad_norm)):
            self._note_non_finite(step, loss, grad_norm)
            return "non_finite"
        if not self.config.enabled:
            return None
        losses = self._losses.setdefault(media, [])
        limit = self._limit(losses)
        if loss > limit:
            self._demand(step, f"the loss of step {step} is {loss:.6g}, and {limit:.6g} would have been a spike")
            return "spike"
        self._last_accepted = step
        losses.append(loss)
        del losses[: -self.config.window_steps]
        return None

    def spend_rewind(self) -> Trouble:
        """Take one rewind from the budget, for the trouble that is due.

        Raises:
            GuardError: there is none left.
        """
        assert self.due is not None
        if len(self.rewinds) >= self.config.max_rewinds:
            before = "; ".join(f"at step {past.at} to step {past.to} ({past.reason})" for past in self.rewinds)
            raise GuardError(
                f"The run must go back again: {self.due.reason}. train.guard.max_rewinds is {self.config.max_rewinds}, "
                f"and it has gone back {len(self.rewinds)} times: {before or 'never'}. Checkpoints are intact. Look at "
                "the samples of these steps (events.jsonl), lower train.optimizer.learning_rate in a new run, or "
                "continue this one with a larger train.guard.max_rewinds."
            )
        return self.due

    def go_back(self, *, at: int, to: int, state_then: Mapping[str, Any]) -> Rewind:
        """Become what the guard was at step `to` (its `to_dict` then), with the rewinds that have happened since."""
        assert self.due is not None
        rewind = Rewind(at=at, to=to, reason=self.due.reason)
        rewinds = [*self.rewinds, rewind]
        self.load(state_then)
        self.rewinds = rewinds
        return rewind

    def is_discarded(self, step: int) -> bool:
        """Whether the parameters after step `step` are from a stretch that a rewind left behind."""
        return any(rewind.to < step < rewind.at for rewind in self.rewinds)

    def to_dict(self) -> dict[str, Any]:
        """All of it, as JSON values."""
        return {
            "losses": {media: list(losses) for media, losses in self._losses.items()},
            "non_finite": list(self.non_finite),
            "last_accepted": self._last_accepted,
            "rewinds": [asdict(rewind) for rewind in self.rewinds],
        }

    def load(self, values: Mapping[str, Any]) -> None:
        """Become what `to_dict` described; of a checkpoint from before there were guards, it is empty."""
        window = self.config.window_steps
        self._losses = {media: list(losses)[-window:] for media, losses in values.get("losses", {}).items()}
        self.non_finite = list(values.get("non_finite", ()))
        self._last_accepted = int(values.get("last_accepted", 0))
        self.rewinds = [Rewind(**rewind) for rewind in values.get("rewinds", ())]
        self.due = None

    def _note_non_finite(self, step: int, loss: float, grad_norm: float) -> None:
        self.non_finite.append(step)
        window = self.config.non_finite_window_steps
        recent = [earlier for earlier in self.non_finite if earlier > step - window]
        if self.config.enabled and len(recent) > self.config.max_non_finite:
            self._demand(
                recent[0],
                f"{len(recent)} of the last {window} steps had a loss or gradient that is not finite: "
                f"{', '.join(map(str, recent))} (the last one has loss {loss:g} and gradient norm {grad_norm:g})",
            )

    def _limit(self, losses: list[float]) -> float:
        if not self.config.spike_sigma or len(losses) < self.config.min_observations:
            return math.inf
        mean = math.fsum(losses) / len(losses)
        deviation = math.sqrt(math.fsum((loss - mean) ** 2 for loss in losses) / len(losses))
        return mean + max(self.config.spike_sigma * deviation, self.config.spike_min_rise)

    def _demand(self, first_step: int, reason: str) -> None:
        # No step was good since the last rewind: what it went back to is itself in doubt, so go behind it.
        if self.rewinds and self._last_accepted <= self.rewinds[-1].at:
            first_step = min(first_step, self.rewinds[-1].to)
        self.due = Trouble(first_step=first_step, reason=reason)
