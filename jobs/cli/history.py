"""`vamba history`: what was done to a registered model, by whom, and whether the record is whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from jobs.cli.errors import FAILED
from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_table


def history(
    name: Annotated[str, typer.Argument(help="The registered model.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Check the log's chain, its end, its evidence and where the aliases are.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Show the audit log of a model, oldest first. With --verify, exit code 1 where it is not the whole truth.

    \b
    Example:
      vamba history vamba-demo --verify
    """
    from pipelines.registry.audit import open_audit_log
    from pipelines.registry.audit_check import find_problems
    from pipelines.registry.history import about

    log = open_audit_log()
    entries = about(log.entries(), name)
    problems = find_problems(name) if verify else []
    if json:
        shown: dict[str, Any] = {
            "log": log.uri,
            "entries": [{**entry.body, "sha256": entry.digest} for entry in entries],
        }
        print_json({**shown, **({"problems": problems} if verify else {})})
    else:
        rows = [_row(entry.body) for entry in entries]
        print_table(("when", "who", "what", "version", "alias", "detail"), rows, title=f"{name} in {log.uri}")
        if verify and not problems:
            print("The log is whole, its evidence is as it was, and the aliases are where it says.")
        elif not entries:
            print(f"Nothing is recorded about {name}. `vamba models ls` lists what is registered.")
    for problem in problems:
        typer.echo(f"vamba: {problem}", err=True)
    if problems:
        raise typer.Exit(FAILED)


def _row(body: Mapping[str, Any]) -> tuple[str, ...]:
    details = {
        "version.register": f"from {body.get('run') or body.get('source', '')}",
        "version.approve": f"by {body.get('by', '')}: {body.get('reason', '')}",
        "promotion.refuse": f"failed: {', '.join(body.get('failed', ()))}",
        "alias.move": f"{body.get('decision', '')}, from {body.get('previous') or 'none'}"
        + (f": {body['reason']}" if body.get("reason") else ""),
        "alias.interrupt": f"killed; the alias was at {body.get('holder') or 'none'}",
        "alias.abandon": f"given up; the alias was at {body.get('holder') or 'none'}",
        "alias.begin": f"{body.get('decision', '')}, from {body.get('previous') or 'none'}",
        "hook.deliver": f"{body.get('url', '')}",
        "hook.fail": f"{body.get('url', '')}: {body.get('problem', '')}",
    }
    action = str(body.get("action", ""))
    when = str(body.get("created_at", "")).partition(".")[0]
    version, alias = str(body.get("version", "")), str(body.get("alias", ""))
    return when, str(body.get("actor", "")), action, version, alias, details.get(action, "")
