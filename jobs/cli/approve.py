"""`vamba approve`: somebody says that a version may be promoted."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import without_secrets


def approve(
    version: Annotated[str, typer.Argument(help="NAME/VERSION.")],
    by: Annotated[str, typer.Option(help="Who approves.")],
    reason: Annotated[str, typer.Option(help="Why, or what was looked at.", callback=without_secrets)],
) -> None:
    """Record an approval, which gates may ask for (gate.min_approvals). Whoever registered the version does not count.

    \b
    Example:
      vamba approve vamba-demo/2 --by "R. Hopper" --reason "read the 40 answers that got worse"
    """
    from pipelines.registry.approvals import approve as record_approval

    name, number = record_approval(version, by=by, reason=reason)
    print(f"{name}/{number} is approved by {by}: {reason}")
