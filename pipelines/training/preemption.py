"""When an announced end asks for a checkpoint: at once, and once more just before the deadline, which is the last step.

    notice (deadline) ──> save after the running step ── training goes on ──> save after the last step that leaves time
                                                                              for it, and leave before the machine goes

Saving only at the notice throws away what is trained until the deadline; saving only at the deadline bets everything on
it. What would be trained after the last save is lost with the machine, and a group that dies with it is a failure to
those who count them; one that has left goes on elsewhere at the next step. Rank 0 decides, so that all ranks save the
same steps.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

# A save takes longer when all of a cluster saves at the same moment.
SAFETY = 1.5
MARGIN_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PreemptionNotice:
    """Machines of this run will be taken. deadline: seconds since 1970, None where nobody said."""

    deadline: float | None
    ranks: tuple[int, ...] = ()


ReadNotice = Callable[[], PreemptionNotice | None]


def no_notice() -> PreemptionNotice | None:
    """Of launchers that announce an end by SIGTERM alone."""
    return None


class PreemptionSaves:
    """Decides before every step whether a checkpoint is due after it."""

    def __init__(self, read: ReadNotice, *, grace_s: float, clock: Callable[[], float] = time.time) -> None:
        """grace_s: between a notice without a deadline and the end."""
        self._read, self._grace_s, self._clock = read, grace_s, clock
        self._notice: PreemptionNotice | None = None
        self._deadline = 0.0
        self._saved_at_once = self._saved_last = False
        self._step_s = self._save_s = 0.0

    def step_took(self, seconds: float) -> None:
        """The slower of the last steps counts: it decides whether another one fits."""
        self._step_s = max(seconds, 0.8 * self._step_s)

    def save_took(self, seconds: float) -> None:
        self._save_s = max(seconds, 0.8 * self._save_s)

    def new_notice(self) -> PreemptionNotice | None:
        """The notice, the first time that it is seen."""
        notice = self._read()
        if notice is None or notice == self._notice:
            return None
        self._notice = notice
        self._deadline = notice.deadline if notice.deadline is not None else self._clock() + self._grace_s
        self._saved_at_once = self._saved_last = False
        return notice

    def save_due(self) -> bool:
        """Whether the state after the step that begins now must be saved."""
        if self._notice is None or self._clock() > self._deadline:
            return False
        return not self._saved_at_once or (not self._saved_last and self._is_last_chance())

    def leave_due(self) -> bool:
        """Whether the step that begins now must be the last one here."""
        return self._notice is not None and self._clock() <= self._deadline and self._is_last_chance()

    def saved(self) -> None:
        """A checkpoint has been begun, for whatever reason."""
        if self._notice is not None:
            self._saved_at_once = True
            self._saved_last = self._is_last_chance()

    def _is_last_chance(self) -> bool:
        """Whether a save after the next step but one would come too late."""
        needed_s = 2 * self._step_s + SAFETY * self._save_s + MARGIN_S
        return self._clock() + needed_s > self._deadline
