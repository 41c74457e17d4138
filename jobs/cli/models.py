"""`vamba models`: what the registry holds."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from jobs.cli.options import AsJson, without_secrets
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
    from pipelines.redaction import redacted
    from pipelines.registry.listing import list_versions
    from pipelines.registry.tracking import tracking_uri

    versions = list_versions()
    if json:
        print_json(versions)
        return
    if not versions:
        print(f"No models in the registry at {redacted(tracking_uri())}. `vamba register RUN --as NAME` adds one.")
        return
    rows = [
        (f"{item.name}/{item.version}", ", ".join(item.aliases), item.run, item.decision, item.created_at)
        for item in versions
    ]
    print_table(("version", "aliases", "run", "last decision", "registered"), rows)


def show(
    model: Annotated[str, typer.Argument(help="NAME/VERSION, NAME@alias or a models:/ URI.")], json: AsJson = False
) -> None:
    """Show one version: where it lies, where it came from, and what was measured of it.

    \b
    Example:
      vamba models show vamba-demo/1
    """
    from pipelines.registry.comparison import accuracies
    from pipelines.registry.lineage import FILES_TAG
    from pipelines.registry.models import resolve_model

    resolved = resolve_model(model if model.startswith("models:") else f"models:/{model}")
    measured = accuracies(resolved)
    if json:
        print_json({"directory": resolved.directory, "ref": resolved.ref, "lineage": dict(resolved.lineage),
                    "evaluations": measured})  # fmt: skip
        return
    shown: dict[str, Any] = {key: value for key, value in sorted(resolved.lineage.items()) if key != FILES_TAG}
    print_pairs(resolved.ref, {"directory": resolved.directory, **shown})
    if measured:
        print_pairs("Evaluations", {name: f"{accuracy:.1%}" for name, accuracy in measured.items()})


def diff(
    first: Annotated[str, typer.Argument(help="NAME/VERSION, NAME@alias or a models:/ URI.")],
    second: Annotated[str, typer.Argument(help="The other one.")],
    json: AsJson = False,
) -> None:
    """Show what differs between two versions: lineage, files, and what was measured of both.

    \b
    Example:
      vamba models diff vamba-demo@champion vamba-demo@challenger
    """
    from pipelines.registry.comparison import compare_versions

    found = compare_versions(first, second)
    if json:
        print_json(found)
        return
    header = ("", found.first, found.second)
    print_table(header, [(key, *pair) for key, pair in found.tags.items()], title="Lineage")
    print("\n".join(found.files) or "The files are the same.")
    if found.metrics:
        rows = [(name, f"{a:.1%}", f"{b:.1%} ({b - a:+.1%})") for name, (a, b) in found.metrics.items()]
        print_table(header, rows, title="Evaluations")


def delete(
    version: Annotated[str, typer.Argument(help="NAME/VERSION.")],
    reason: Annotated[str, typer.Option(help="Why, for the audit log.", callback=without_secrets)],
) -> None:
    """Take a version out of the registry. Refused while an alias points at it or another version came from it.

    Its files stay where they are; the checkpoint it was made from is left to the retention rule again.

    \b
    Example:
      vamba models delete vamba-demo/1 --reason "superseded, never used"
    """
    from pipelines.registry.deletion import delete_version

    source = delete_version(version, reason=reason)
    print(f"{version} is no longer registered; its files are still in {source}.")
