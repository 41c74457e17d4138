"""What `vamba promote` and `vamba rollback` do once the decision is made: the table, hooks, metrics, the exit code."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import REFUSED
from jobs.cli.output import print_json, print_pairs, print_table

if TYPE_CHECKING:
    from pipelines.registry.outcome import PromotionOutcome

Notify = Annotated[
    list[str] | None,
    typer.Option(help="Address that is told of the decision (POST, JSON). Repeatable.", metavar="URL"),
]


def finish(
    outcome: PromotionOutcome, urls: Sequence[str], *, title: str, address: str | None, json: bool, dry_run: bool
) -> None:
    """Show a decision, tell the hooks and the cluster's metrics, and leave with exit code 3 if it is a refusal."""
    if json:
        print_json(outcome)
    else:
        _print(outcome, title=title, dry_run=dry_run)
    if urls and outcome.entry:
        _notify(outcome, urls)
    if outcome.entry:
        _export(outcome, address)
    if not outcome.holds and not dry_run:
        raise typer.Exit(REFUSED)


def _notify(outcome: PromotionOutcome, urls: Sequence[str]) -> None:
    from pipelines.registry.hooks import notify

    try:
        deliveries = notify(outcome, urls)
    except Exception as error:
        # The decision stands; what could not be written down about its hooks is told.
        typer.echo(f"vamba: the decision stands, but its notification was not recorded: {error}", err=True)
        return
    for delivery in deliveries:
        if delivery.problem:
            typer.echo(
                f"vamba: {delivery.url} was not told, after {delivery.attempts} attempts: {delivery.problem}. "
                "The decision stands.",
                err=True,
            )


def _export(outcome: PromotionOutcome, address: str | None) -> None:
    from pipelines.registry.audit import open_audit_log
    from pipelines.registry.ray_metrics import export_decisions

    try:
        export_decisions(open_audit_log().entries(), outcome.name, address)
    except Exception as error:
        typer.echo(f"vamba: the decision stands, but Ray's metrics do not show it: {error}", err=True)


def _print(outcome: PromotionOutcome, *, title: str, dry_run: bool) -> None:
    rows = [
        ("pass" if check.passed else "FAIL", check.name, check.found, check.required) for check in outcome.report.checks
    ]
    version = f"{outcome.name}/{outcome.version or '(new)'}"
    print_table(("", "check", "found", "required"), rows, title=f"{title} of {version} for {outcome.alias}")
    evidence = ", ".join(result.name for result in outcome.evaluations) or "none"
    print_pairs(
        _verdict(outcome, version, dry_run=dry_run),
        {
            "decision": outcome.decision,
            "previous": outcome.previous or "none",
            "evidence": evidence,
            "model": outcome.directory,
            "run": outcome.tags.get("run", ""),
            "git commit": outcome.tags.get("git_commit", ""),
            **({"reason": outcome.reason} if outcome.reason else {}),
        },
    )


def _verdict(outcome: PromotionOutcome, version: str, *, dry_run: bool) -> str:
    counts = f"{len(outcome.report.failed)} of {len(outcome.report.checks)} checks failed"
    if dry_run:
        wording = {"promoted": "would pass", "forced": "would be forced", "rolled back": "would be rolled back to"}
        return f"{version} {wording.get(outcome.decision, 'would be refused')}; nothing was changed."
    if not outcome.holds:
        return f"Refused: {counts}; {outcome.alias} stays where it is."
    if not outcome.moved:
        return f"{outcome.uri} was {version} already; nothing changed."
    forced = f", forced although {counts}" if outcome.decision == "forced" else ""
    return f"{outcome.uri} is now {version}{forced}."
