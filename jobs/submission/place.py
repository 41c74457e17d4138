"""Where submitted jobs run: sending one there, its log, its state, its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from jobs.submission.plan import Submission

# Of a job that was asked to save and end, as where it runs: the same command continues it.
STOPPED = 75
Note = Callable[[str], None]


class Place(Protocol):
    """A running Ray cluster, or a namespace of Kubernetes. Unreached, each method raises ConnectionError."""

    @property
    def words(self) -> str:
        """How a command line names it."""

    def send(self, submission: Submission, *, check: bool, note: Note) -> str:
        """The job's id there. check: refuse with ValueError what its nodes can't hold."""

    def follow(self, identity: str, show: Callable[..., None]) -> int:
        """Show the job's log until it ends; its exit code."""

    def status(self, identity: str) -> Mapping[str, str]:
        """What is known about the job, by name."""

    def stop(self, identity: str) -> str:
        """Ask the job to save and end; what was done, in words."""
