"""`vamba promote`: judge a version, and move an alias to it if it passes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.decision import Notify, finish
from jobs.cli.options import Address, AsJson, Assignments, ConfigFile, DryRun, resolve_config, without_secrets
from jobs.cli.output import print_config

if TYPE_CHECKING:
    from pipelines.registry.config import PromotionConfig


def promote(
    target: Annotated[str, typer.Argument(help="NAME/VERSION, or a run (registered first as --as NAME).")],
    to: Annotated[str, typer.Option("--to", help="The alias to move, e.g. challenger or champion.")] = "champion",
    name: Annotated[str | None, typer.Option("--as", help="Registered model that a run becomes a version of.")] = None,
    evaluation: Annotated[
        list[str] | None, typer.Option(help="Evaluation to judge by; by default the newest of this model. Repeatable.")
    ] = None,
    gates: Annotated[str, typer.Option(help="Gate recipe, or a YAML file.", metavar="NAME|FILE")] = "gates",
    force: Annotated[
        bool, typer.Option("--force", help="Move the alias although checks fail; needs --reason.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, for the record.", callback=without_secrets)] = "",
    notify: Notify = None,
    address: Address = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Move an alias to a version if it passes the gate. The decision is recorded either way; a refusal exits with 3.

    \b
    Example:
      vamba promote vamba-demo/1 --to champion
      vamba promote vamba-demo/2 --force --reason "incident 12: version 1 answers nothing"
    """
    from pipelines.registry.hooks import check_urls
    from pipelines.registry.promote import promote as run_promotion

    if force and not reason.strip():
        raise ValueError('--force needs --reason "…": it is kept with the checks that failed.')
    check_urls(notify or ())
    resolved = configured(target=target, to=to, name=name, evaluation=evaluation, gates=gates, config=config, set_=set_)
    if dry_run and not json:
        print_config(resolved)
    outcome = run_promotion(resolved, reason=reason.strip(), force=force, dry_run=dry_run)
    finish(outcome, notify or (), title="Gate", address=address, json=json, dry_run=dry_run)


def configured(
    *,
    target: str,
    to: str,
    name: str | None,
    evaluation: Sequence[str] | None,
    gates: str,
    config: Path | None,
    set_: Sequence[str] | None,
    **_: object,
) -> PromotionConfig:
    """The configuration that the command's options describe; those that say how it is run are passed over."""
    from pipelines.registry.config import PromotionConfig

    arguments = {
        "target": target,
        "alias": to,
        "register_as": name,
        "evaluations": tuple(evaluation) if evaluation else None,
    }
    return resolve_config(PromotionConfig, recipe=gates, file=config, assignments=set_, arguments=arguments)
