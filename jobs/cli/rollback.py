"""`vamba rollback`: an alias goes back to the version that held it before."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.decision import Notify, finish
from jobs.cli.options import Address, AsJson, without_secrets


def rollback(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    alias: Annotated[str, typer.Option(help="The alias to move back.")] = "champion",
    to: Annotated[
        str | None, typer.Option(help="The version to go back to; by default the one before.", metavar="VERSION")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the record.", callback=without_secrets)] = "",
    notify: Notify = None,
    address: Address = None,
    json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Verify the version; change nothing.")] = False,
) -> None:
    """Move an alias back, after verifying that the old version is whole and loads; if it is not, exit code 3.

    A second rollback goes one further back.

    \b
    Example:
      vamba rollback vamba-demo --reason "answers got slower"
    """
    from pipelines.registry.hooks import check_urls
    from pipelines.registry.rollback import roll_back

    check_urls(notify or ())
    outcome = roll_back(name, alias=alias, to=to, reason=reason.strip(), dry_run=dry_run)
    finish(outcome, notify or (), title="Rollback", address=address, json=json, dry_run=dry_run)
