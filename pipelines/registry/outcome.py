"""What became of a request to promote a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.evaluation.result import EvaluationResult
from pipelines.registry import history
from pipelines.registry.checks import GateReport


@dataclass(frozen=True, slots=True, kw_only=True)
class PromotionOutcome:
    """What was decided. version is "" in a dry run of a run that is not registered yet.

    decision: promoted, forced, refused or rolled back. moved: the alias points at this version now, and did not before.
    previous: the version that held it, or "". entry: SHA-256 of the audit line that records it, "" where nothing was.
    """

    name: str
    version: str
    alias: str
    decision: str
    passed: bool
    moved: bool
    previous: str
    report: GateReport
    tags: Mapping[str, str]
    evaluations: tuple[EvaluationResult, ...]
    directory: str
    reason: str = ""
    entry: str = ""

    @property
    def uri(self) -> str:
        return f"models:/{self.name}@{self.alias}"

    @property
    def holds(self) -> bool:
        """Whether the alias points at the version now (would, in a dry run)."""
        return self.decision != history.REFUSED
