"""What a gate says: a list of checks, each with what was found and what was required."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One requirement. found and required are for people."""

    name: str
    passed: bool
    found: str
    required: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """All checks. evaluations: the evidence, by name."""

    checks: tuple[Check, ...]
    evaluations: tuple[str, ...]

    @property
    def passed(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def failed(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)
