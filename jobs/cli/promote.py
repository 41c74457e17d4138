"""`vamba promote`: judge a version, and move an alias to it if it passes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import REFUSED
from jobs.cli.options import AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import print_config, print_json, print_pairs, print_table

if TYPE_CHECKING:
    from pipelines.registry.promote import PromotionOutcome


def promote(
    target: Annotated[str, typer.Argument(help="NAME/VERSION, or a run (registered first as --as NAME).")],
    to: Annotated[str, typer.Option("--to", help="The alias to move.")] = "champion",
    name: Annotated[str | None, typer.Option("--as", help="Registered model that a run becomes a version of.")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(help="Evaluation to judge by; by default the newest of this model. Repeatable.")
    ] = None,
    gates: Annotated[str, typer.Option(help="Gate recipe, or a YAML file.", metavar="NAME|FILE")] = "gates",
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Move an alias to a version if it passes the gate. The decision is recorded either way; a refusal exits with 3.

    \b
    Example:
      vamba promote vamba-demo/1 --to champion
    """
    from pipelines.registry.config import PromotionConfig
    from pipelines.registry.promote import promote as run_promotion

    arguments = {
        "target": target,
        "alias": to,
        "register_as": name,
        "evaluations": tuple(evaluation) if evaluation else None,
    }
    resolved = resolve_config(PromotionConfig, recipe=gates, file=config, assignments=set_, arguments=arguments)
    if dry_run and not json:
        print_config(resolved)
    outcome = run_promotion(resolved, dry_run=dry_run)
    if json:
        print_json(outcome)
    else:
        _print(outcome, dry_run=dry_run)
    if not outcome.passed and not dry_run:
        raise typer.Exit(REFUSED)


def _print(outcome: PromotionOutcome, *, dry_run: bool) -> None:
    rows = [
        ("pass" if check.passed else "FAIL", check.name, check.found, check.required) for check in outcome.report.checks
    ]
    version = f"{outcome.name}/{outcome.version or '(new)'}"
    print_table(("", "check", "found", "required"), rows, title=f"Gate of {version} for {outcome.alias}")
    if dry_run:
        verdict = f"{version} would {'pass' if outcome.passed else 'be refused'}; nothing was changed."
    elif not outcome.passed:
        counts = f"{len(outcome.report.failed)} of {len(outcome.report.checks)} checks failed"
        verdict = f"Refused: {counts}; {outcome.alias} stays where it is."
    elif outcome.moved:
        verdict = f"{outcome.uri} is now {version}."
    else:
        verdict = f"{outcome.uri} was {version} already; nothing changed."
    evidence = ", ".join(result.name for result in outcome.evaluations) or "none"
    print_pairs(
        verdict,
        {
            "previous": outcome.previous or "none",
            "evidence": evidence,
            "model": outcome.directory,
            "run": outcome.tags.get("run", ""),
            "git commit": outcome.tags.get("git_commit", ""),
        },
    )
