"""Promotion: judge a version, keep the evidence, move the alias or refuse.

    run ──register──> version ──judge──> GateReport ──> evidence (beside the audit log, and as an MLflow artifact)
                                                          ├─ passed, or forced with a reason ──move_alias──> moved
                                                          └─ otherwise ──> refused: a line, tags of the version

Promoting the version that holds the alias already changes nothing. A promotion that was killed is completed by the same
command: what it left open is settled first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from pipelines.registry import history
from pipelines.registry.anchor import record
from pipelines.registry.audit import AuditLog, open_audit_log
from pipelines.registry.candidates import Candidate, parse_target, registered_candidate
from pipelines.registry.checks import GateReport
from pipelines.registry.config import PromotionConfig
from pipelines.registry.decisions import decision_tags, keep_decision
from pipelines.registry.evidence import gather
from pipelines.registry.gate import judge
from pipelines.registry.lineage import build_lineage
from pipelines.registry.model_files import hash_model_files
from pipelines.registry.moves import Move, holder_of, move_alias, settle
from pipelines.registry.outcome import PromotionOutcome
from pipelines.registry.register import register_model
from pipelines.registry.registrable import find_registrable
from pipelines.registry.tracking import open_client
from pipelines.registry.verification import FILES_CHECK

if TYPE_CHECKING:
    from mlflow import MlflowClient


def promote(
    config: PromotionConfig, *, reason: str = "", force: bool = False, dry_run: bool = False
) -> PromotionOutcome:
    """Judge `config.target` and move the alias if everything holds. `dry_run` judges and touches nothing.

    reason: kept with the decision. force: move it although checks fail, which needs a reason; files that are not the
    version's are never forced.

    Raises ModelNotFoundError for a target that does not exist, ValueError for a run without a name to register it as,
    AliasBusy or AliasMoved where somebody else moves the alias at the same time.
    """
    if force and not reason:
        raise ValueError("A promotion that is forced needs a reason.")
    client, log = open_client(), open_audit_log()
    candidate = find_candidate(client, config, dry_run=dry_run)
    if not dry_run:
        settle(client, log, candidate.name, config.alias)
    entries = log.entries()
    gate = config.gate
    rests_on = {config.alias, *([gate.no_worse.than] if gate.no_worse else [])}
    seen = {alias: history.last_move(entries, candidate.name, alias) for alias in rests_on}
    previous = holder_of(client, candidate.name, config.alias)
    is_held = candidate.version != "" and previous == candidate.version
    known = history.logged_holder(entries, candidate.name, config.alias)
    evidence = gather(client, config, candidate, entries)
    report = judge(candidate, evidence, gate)
    used = tuple(result for result in evidence.evaluations if result.name in report.evaluations)
    outcome = PromotionOutcome(
        name=candidate.name,
        version=candidate.version,
        alias=config.alias,
        decision=_decide(report, force),
        passed=report.passed,
        moved=False,
        # A promotion that was killed after its move left the alias at the version, and the log with who held it before.
        previous=known if is_held else previous,
        report=report,
        tags=candidate.tags,
        evaluations=used,
        directory=str(candidate.directory),
        reason=reason,
    )
    if dry_run or (outcome.holds and is_held and known == candidate.version):
        return outcome
    digest = keep_decision(client, log, config, outcome, by=evidence.approvers)
    if not outcome.holds:
        return refuse(client, log, outcome, digest)
    return carry_out(client, log, outcome, digest, seen)


def find_candidate(client: MlflowClient, config: PromotionConfig, *, dry_run: bool) -> Candidate:
    """The version to be judged; a run is registered first, or in a dry run looked at as it is."""
    parsed = parse_target(config.target)
    if parsed is not None:
        return registered_candidate(client, *parsed)
    if not config.register_as:
        raise ValueError(
            f"{config.target!r} is a run, not a registered version: name the model it becomes a version of with --as "
            "NAME, or give a version as NAME/VERSION."
        )
    if not dry_run:
        made = register_model(config.target, config.register_as)
        return registered_candidate(client, made.name, made.version)
    model = find_registrable(config.target)
    tags = build_lineage(model.lineage, hash_model_files(model.directory), model.run).tags
    return Candidate(
        name=config.register_as, version="", source=model.source, directory=model.directory, tags=dict(tags)
    )


def refuse(client: MlflowClient, log: AuditLog, outcome: PromotionOutcome, digest: str) -> PromotionOutcome:
    """Record a refusal; the alias stays."""
    failed = [check.name for check in outcome.report.failed]
    body = {
        "action": history.REFUSE,
        "version": outcome.version,
        "alias": outcome.alias,
        "decision": outcome.decision,
        "failed": failed,
        "evidence": digest,
    }
    entry = record(client, log, outcome.name, lambda entries: body)
    for key, value in decision_tags(outcome, digest).items():
        client.set_model_version_tag(outcome.name, outcome.version, key, value)
    return replace(outcome, moved=False, entry=entry.digest)


def carry_out(
    client: MlflowClient, log: AuditLog, outcome: PromotionOutcome, digest: str, seen: Mapping[str, int]
) -> PromotionOutcome:
    """Move the alias as decided."""
    entry = move_alias(
        client,
        log,
        Move(
            model=outcome.name,
            version=outcome.version,
            alias=outcome.alias,
            previous=outcome.previous,
            decision=outcome.decision,
            seen=seen,
            tags=decision_tags(outcome, digest),
            facts={
                "evidence": digest,
                **({"reason": outcome.reason} if outcome.reason else {}),
                **({"failed": [check.name for check in outcome.report.failed]} if not outcome.passed else {}),
            },
        ),
    )
    return replace(outcome, moved=True, entry=entry.digest)


def _decide(report: GateReport, force: bool) -> str:
    if report.passed:
        return history.PROMOTED
    damaged = any(check.name == FILES_CHECK for check in report.failed)
    return history.FORCED if force and not damaged else history.REFUSED
