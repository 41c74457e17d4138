"""The options that verbs share, declared once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from pipelines.redaction import redacted_text

ConfigFile = Annotated[
    Path | None, typer.Option("--config", help="YAML file laid over the recipe.", metavar="FILE", show_default=False)
]
Assignments = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="One setting, e.g. --set train.optimizer.learning_rate=3e-4. Repeatable.", metavar="A.B=C"
    ),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the resolved configuration and the plan; do nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable output.")]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster to use (`auto`, ray://…); by default this machine.", metavar="ADDRESS"),
]
Config = TypeVar("Config")


def without_secrets(text: str) -> str:
    """For an option whose text is kept, and sent to others: a value that was pasted along stays out of it."""
    return redacted_text(text)


def resolve_config(
    kind: type[Config],
    *,
    recipe: str | None,
    file: Path | None,
    assignments: Sequence[str] | None,
    arguments: Mapping[str, Any],
) -> Config:
    """recipe → --config → the verb's own arguments → --set, validated."""
    from jobs import config as configuration

    layers = [configuration.recipe_layer(recipe)] if recipe else []
    if file is not None:
        layers.append(configuration.file_layer(file))
    layers.append(configuration.argument_layer(arguments))
    if assignments:
        layers.append(configuration.set_layer(assignments))
    return configuration.resolve(kind, layers)
