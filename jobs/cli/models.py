"""`vamba models`: what the registry holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_pairs, print_table


def default(context: typer.Context, json: AsJson = False) -> None:
    """List registered models and versions (the default), or show one.

    \b
    Example:
      vamba models show vamba-demo@champion
    """
    if context.invoked_subcommand is None:
        ls(json=json)


def ls(json: AsJson = False) -> None:
    """List every version with its aliases.

    \b
    Example:
      vamba models ls --json
    """
    from pipelines.registry.listing import list_versions
    from pipelines.registry.tracking import tracking_uri

    versions = list_versions()
    if json:
        print_json(versions)
        return
    if not versions:
        print(f"No models in the registry at {tracking_uri()}. `vamba register RUN --as NAME` adds one.")
        return
    rows = [
        (f"{item.name}/{item.version}", ", ".join(item.aliases), item.run, item.decision, item.created_at)
        for item in versions
    ]
    print_table(("version", "aliases", "run", "last decision", "registered"), rows)


def show(
    model: Annotated[str, typer.Argument(help="NAME/VERSION, NAME@alias or a models:/ URI.")], json: AsJson = False
) -> None:
    """Show one version: where it lies and where it came from.

    \b
    Example:
      vamba models show vamba-demo/1
    """
    from pipelines.registry.lineage import FILES_TAG
    from pipelines.registry.models import resolve_model

    resolved = resolve_model(model if model.startswith("models:") else f"models:/{model}")
    if json:
        print_json(resolved)
        return
    shown: dict[str, Any] = {key: value for key, value in sorted(resolved.lineage.items()) if key != FILES_TAG}
    print_pairs(resolved.ref, {"directory": resolved.directory, **shown})
