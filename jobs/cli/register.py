"""`vamba register`: a run, or a checkpoint of one, becomes a version of a registered model."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.cli.options import AsJson, DryRun
from jobs.cli.output import print_json, print_pairs


def register(
    run: Annotated[str, typer.Argument(help="A finished run, RUN@STEP, a model directory, or s3://….")],
    name: Annotated[str, typer.Option("--as", help="Registered model that it becomes a version of.")],
    store: Annotated[
        str | None,
        typer.Option(
            help="Folder or s3://… that its files are copied to first; by default $VAMBA_MODELS, else none.",
            metavar="URI",
        ),
    ] = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Register a model with its lineage. Registering the same model again gives the same version.

    RUN@STEP takes a kept checkpoint of a run, finished or not; it is kept for as long as the version is there.

    \b
    Example:
      vamba register stage2 --as vamba-demo
      vamba register stage2@800 --as vamba-demo --store s3://bucket/models
    """
    from pipelines.registry.lineage import FILES_TAG, build_lineage
    from pipelines.registry.model_files import hash_model_files
    from pipelines.registry.register import register_model
    from pipelines.registry.registrable import find_registrable

    if dry_run:
        model = find_registrable(run)
        tags = build_lineage(model.lineage, hash_model_files(model.directory), model.run).tags
        shown = {key: value for key, value in tags.items() if key != FILES_TAG}
        print_pairs(f"Would register {model.directory} as a version of {name}", shown)
        return
    version = register_model(run, name, store=store)
    if json:
        print_json({**{"uri": version.uri}, "name": version.name, "version": version.version, "source": version.source,
                    "created": version.created, "tags": dict(version.tags)})  # fmt: skip
        return
    shown = {key: value for key, value in sorted(version.tags.items()) if key != FILES_TAG}
    title = f"{'Registered' if version.created else 'Already registered as'} {version.uri}"
    print_pairs(title, {"source": version.source, **shown})
