"""`vamba model`: model directories, made from Qwen2-VL's and looked into."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.options import AsJson
from jobs.cli.output import human_bytes, human_seconds, print_json, print_pairs, print_table
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from vamba.model.convert import ConversionPlan, Written


def convert(
    source: Annotated[Path, typer.Option("--from", help="A Qwen2-VL directory.", metavar="DIR")],
    out: Annotated[Path, typer.Option(help="The directory to write.", metavar="DIR")],
    seed: Annotated[int, typer.Option(help="Of the parts that start fresh.")] = 0,
    max_shard_size: Annotated[str, typer.Option(help="Largest file of weights, e.g. 500MB or 4GiB.")] = "4GB",
    json: AsJson = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be written; do nothing.")] = False,
) -> None:
    """Start a Vamba from a Qwen2-VL of any size: cross-attention copied, mixers and alpha fresh.

    Tensors are copied one by one, so the 7B model needs less than 1 GB of memory. The directory appears when it is
    complete.

    \b
    Example:
      vamba model convert --from Qwen2-VL-7B-Instruct --out hybrid
    """
    from vamba.model.convert import check_destination, convert_qwen2_vl, plan_conversion
    from vamba.model.shard_writer import size_in_bytes

    max_shard_bytes = size_in_bytes(max_shard_size)
    plan = plan_conversion(source)
    check_destination(plan, out)
    described = _describe(plan, out, plan.num_shards(max_shard_bytes))
    if dry_run:
        _show("Would write", described, json)
        return
    started = time.monotonic()
    try:
        convert_qwen2_vl(
            plan, out, seed=seed, max_shard_bytes=max_shard_bytes, progress=lambda done: _progress(plan, done)
        )
    except KeyboardInterrupt:
        SESSION.end_progress()
        typer.echo("vamba: interrupted; nothing was written. The same command starts again.", err=True)
        raise typer.Exit(130) from None
    SESSION.end_progress()
    _show("Converted", {**described, "seed": seed, "seconds": round(time.monotonic() - started, 1)}, json)


def inspect(
    directory: Annotated[Path, typer.Argument(help="A model directory: ours, the release's or a Qwen2-VL's.")],
    json: AsJson = False,
) -> None:
    """Show a model directory's parameters by part, types, files and settings, and what doesn't fit its config.

    Only headers are read. The exit code is 1 where something doesn't fit.

    \b
    Example:
      vamba model inspect hybrid
    """
    from vamba.model.inspection import inspect_directory

    found = inspect_directory(directory)
    if json:
        print_json(found)
    else:
        print_table(("part", "parameters"), _counted({**found.parts, "total": found.num_parameters}))
        dtypes = ", ".join(f"{name} ({count:,})" for name, count in found.dtypes.items())
        names = list(found.shards)
        print_pairs(
            f"{found.directory}: {found.kind}",
            {
                **_trained(found.trainable),
                "tensors": found.num_tensors,
                "types": dtypes,
                "weights": f"{human_bytes(found.size_bytes)} in {_files(len(names))}, {names[0]}"
                + (f" to {names[-1]}" if len(names) > 1 else ""),
                "tokenizer": ", ".join(found.tokenizer) or "none",
                **found.config,
                "fits its config": "no" if found.problems else "yes",
            },
        )
    for problem in found.problems:
        typer.echo(f"vamba: {found.directory}: {problem}", err=True)
    if found.problems:
        raise typer.Exit(FAILED)


def _describe(plan: ConversionPlan, out: Path, num_shards: int) -> dict[str, object]:
    from vamba.model.inspection import count_parts, count_trainable

    sizes = [(tensor.name, tensor.num_values) for tensor in plan.tensors]
    return {
        "source": plan.source,
        "directory": out,
        "parts": count_parts(sizes),
        "num_parameters": sum(size for _, size in sizes),
        "trainable": count_trainable(sizes),
        "num_tensors": len(sizes),
        "size_bytes": plan.size_bytes,
        "num_shards": num_shards,
    }


def _show(title: str, described: dict[str, object], json: bool) -> None:
    if json:
        print_json(described)
        return
    parts, trainable = described.pop("parts"), described.pop("trainable")
    assert isinstance(parts, dict) and isinstance(trainable, dict)
    size_bytes, seconds = described.pop("size_bytes"), described.pop("seconds", None)
    assert isinstance(size_bytes, int)
    print_table(("part", "parameters"), _counted({**parts, "total": described.pop("num_parameters")}))
    shown: dict[str, object] = {
        "from": described.pop("source"),
        "to": described.pop("directory"),
        **_trained(trainable),
        "tensors": described.pop("num_tensors"),
        "weights": f"{human_bytes(size_bytes)} in {_files(described.pop('num_shards'))}",
        **described,
    }
    if isinstance(seconds, float):
        shown["took"] = human_seconds(seconds)
    print_pairs(title, shown)


def _trained(trainable: dict[str, int]) -> dict[str, str]:
    return {f"trainable in {stage.replace('_', ' ')}": f"{count:,}" for stage, count in trainable.items()}


def _files(count: object) -> str:
    return "1 file" if count == 1 else f"{count} files"


def _counted(parts: dict[str, object]) -> list[tuple[str, str]]:
    return [(part.replace("_", " "), f"{count:,}") for part, count in parts.items()]


def _progress(plan: ConversionPlan, done: Written) -> None:
    SESSION.progress(
        f"{done.num_tensors} of {len(plan.tensors)} tensors, {human_bytes(done.size_bytes)} of "
        f"{human_bytes(plan.size_bytes)}"
    )
