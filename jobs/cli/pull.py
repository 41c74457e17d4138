"""`vamba pull` and `vamba export`: a model into a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import human_bytes, print_json, print_pairs

if TYPE_CHECKING:
    from pipelines.registry.pull import WrittenModel

Target = Annotated[Path, typer.Argument(help="The folder to write; it appears when it is complete.")]


def pull(
    version: Annotated[str, typer.Argument(help="NAME@alias, NAME/VERSION or a models:/ URI.")],
    directory: Target,
    json: AsJson = False,
) -> None:
    """Copy a version's files, unchanged, and check every one of them against what was registered.

    \b
    Example:
      vamba pull vamba-demo@champion model
    """
    from pipelines.registry.pull import pull as copy_version

    _show("Pulled", copy_version(version, directory), json)


def export(
    model: Annotated[str, typer.Argument(help="NAME@alias, NAME/VERSION, a run, RUN@STEP, or a model directory.")],
    directory: Target,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: bfloat16, float16 or float32; by default as they are stored.")
    ] = None,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights, e.g. 500MB or 4GiB.")] = "4GB",
    json: AsJson = False,
) -> None:
    """Write a model in the layout of the published release: config, sharded safetensors, tokenizer, processing.

    \b
    Example:
      vamba export vamba-demo@champion release --dtype bfloat16
    """
    from pipelines.registry.pull import export as write_release
    from vamba.model.shard_writer import size_in_bytes

    written = write_release(model, directory, dtype=dtype, max_shard_bytes=size_in_bytes(max_shard_size))
    _show("Exported", written, json)


def _show(verb: str, written: WrittenModel, json: bool) -> None:
    if json:
        print_json(written)
        return
    pairs = {
        "directory": written.directory,
        "files": f"{written.num_files} ({human_bytes(written.size_bytes)})",
        "digest": written.digest,
    }
    print_pairs(f"{verb} {written.ref}", pairs)
