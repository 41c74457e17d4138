"""`vamba register`: a finished run becomes a version of a registered model."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import AsJson, DryRun
from jobs.cli.output import print_json, print_pairs


def register(
    run: Annotated[str, typer.Argument(help="A finished run, or a model directory.")],
    name: Annotated[str, typer.Option("--as", help="Registered model that it becomes a version of.")],
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Register the model of a run with its lineage. Registering the same model again gives the same version.

    \b
    Example:
      vamba register stage2 --as vamba-demo
    """
    from pipelines.registry.lineage import FILES_TAG, build_lineage
    from pipelines.registry.model_files import hash_model_files
    from pipelines.registry.models import resolve_model
    from pipelines.registry.register import register_model

    if dry_run:
        directory = resolve_model(run).directory
        tags = build_lineage(directory.parent, hash_model_files(directory)).tags
        shown = {key: value for key, value in tags.items() if key != FILES_TAG}
        print_pairs(f"Would register {directory} as a version of {name}", shown)
        return
    version = register_model(run, name)
    if json:
        print_json({**{"uri": version.uri}, "name": version.name, "version": version.version, "source": version.source,
                    "created": version.created, "tags": dict(version.tags)})  # fmt: skip
        return
    shown = {key: value for key, value in sorted(version.tags.items()) if key != FILES_TAG}
    title = f"{'Registered' if version.created else 'Already registered as'} {version.uri}"
    print_pairs(title, {"source": version.source, **shown})
