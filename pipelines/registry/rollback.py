"""Back to an earlier version: verified again first, then the same move as a promotion's, recorded the same way.

audit log ──holders──> who held the alias before ──verify: files, loads──> move_alias, or refused
"""

from __future__ import annotations

from collections.abc import Sequence

from pipelines.registry import history
from pipelines.registry.audit import Entry, open_audit_log
from pipelines.registry.candidates import registered_candidate
from pipelines.registry.checks import GateReport
from pipelines.registry.config import PromotionConfig, check_alias
from pipelines.registry.decisions import keep_decision
from pipelines.registry.moves import holder_of, settle
from pipelines.registry.outcome import PromotionOutcome
from pipelines.registry.promote import carry_out, refuse
from pipelines.registry.tracking import open_client
from pipelines.registry.verification import verify


def roll_back(
    name: str, *, alias: str = "champion", to: str | None = None, reason: str = "", dry_run: bool = False
) -> PromotionOutcome:
    """Move an alias back to the version that held it before, or to the version `to`. A second one goes back further.

    Refused where the version's files are not what was registered, or don't load. Raises ValueError where there is
    nothing to go back to, AliasBusy or AliasMoved where somebody else moves the alias at the same time.
    """
    check_alias(alias)
    client, log = open_client(), open_audit_log()
    if not dry_run:
        settle(client, log, name, alias)
    entries = log.entries()
    seen = {alias: history.last_move(entries, name, alias)}
    present = holder_of(client, name, alias)
    known = history.logged_holder(entries, name, alias)
    # One that was killed is completed, wherever it left the alias.
    target = to or history.interrupted_rollback(entries, name, alias) or _before(entries, present, name, alias)
    candidate = registered_candidate(client, name, target)
    report = GateReport(checks=tuple(verify(candidate)), evaluations=())
    outcome = PromotionOutcome(
        name=name,
        version=target,
        alias=alias,
        decision=history.ROLLED_BACK if report.passed else history.REFUSED,
        passed=report.passed,
        moved=False,
        previous=known if present == target else present,
        report=report,
        tags=candidate.tags,
        evaluations=(),
        directory=str(candidate.directory),
        reason=reason,
    )
    if dry_run or (outcome.passed and present == target == known):
        return outcome
    digest = keep_decision(client, log, PromotionConfig(target=candidate.label, alias=alias), outcome, by=())
    return carry_out(client, log, outcome, digest, seen) if outcome.passed else refuse(client, log, outcome, digest)


def _before(entries: Sequence[Entry], present: str, name: str, alias: str) -> str:
    """Who held the alias before its present holder."""
    stack = history.holders(entries, name, alias)
    earlier = stack[:-1] if stack and stack[-1] == present else stack
    if not earlier:
        raise ValueError(
            f"No version held {alias} of {name} before {present or 'now'}, as far as the audit log knows: name one "
            f"with --to VERSION (vamba history {name} shows what there was)."
        )
    return earlier[-1]
