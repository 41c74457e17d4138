"""`vamba data`: what datasets hold, whether they are whole, how they look, and what they hold twice."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from jobs.cli.data_listing import print_samples
from jobs.cli.data_tables import described, print_duplicates, print_statistics, print_verification, statistics_json
from jobs.cli.errors import FAILED
from jobs.cli.options import AsJson
from jobs.cli.output import human_bytes, print_json, print_table
from jobs.cli.session import SESSION

Data = Annotated[str, typer.Argument(help="URI of a dataset.")]
Jobs = Annotated[int, typer.Option("--jobs", help="Processes; 0 means one per core.", metavar="N")]


def ls(
    where: Annotated[str, typer.Argument(help="A folder with datasets, or a dataset.")] = ".",
    split: Annotated[
        str | None, typer.Option(help="Only samples of this split.", metavar="SPLIT", show_default=False)
    ] = None,
    media: Annotated[
        str | None, typer.Option(help="Only samples of this kind: video or image.", metavar="KIND", show_default=False)
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(help="Only samples whose id or source fits, with * and ?.", metavar="PATTERN", show_default=False),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="Only samples in such a shard, with * and ?.", metavar="PATTERN", show_default=False),
    ] = None,
    min_seconds: Annotated[
        float | None, typer.Option(help="Only sources that last as long, or longer.", metavar="S", show_default=False)
    ] = None,
    max_seconds: Annotated[
        float | None, typer.Option(help="Only sources that are shorter.", metavar="S", show_default=False)
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option(help="Samples to show; 50 by default, all with --json.", metavar="N", show_default=False),
    ] = None,
    json: AsJson = False,
) -> None:
    """List the samples of a dataset, or the datasets in a folder.

    Samples are read and shown a few at a time, however many there are. With --json each is an object on a line of its
    own; datasets are one list.

    \b
    Example:
      vamba data ls data/
      vamba data ls data/videos --split validation --min-seconds 3600 --json
    """
    from pipelines.datasets.listing import SampleFilter
    from pipelines.manifest_io import has_manifest

    chosen = SampleFilter(
        split=split,  # type: ignore[arg-type]
        media=media,  # type: ignore[arg-type]
        shard=shard,
        match=match,
        min_s=min_seconds,
        max_s=max_seconds,
    )
    if limit is not None and limit < 1:
        raise ValueError(f"--limit is {limit}; it must be at least 1")
    if has_manifest(where):
        print_samples(where, chosen, limit, json)
    elif not chosen.is_empty:
        raise ValueError(f"{where} is not a dataset, whose samples could be chosen; name one (`vamba data ls {where}`)")
    else:
        _list_datasets(where, json)


def stats(
    data: Data,
    model: Annotated[
        Path | None,
        typer.Option(help="Count video tokens at this model's resolution.", metavar="DIR", show_default=False),
    ] = None,
    plot: Annotated[
        Path | None,
        typer.Option(
            help="Draw durations, tokens and failures: a .png, .svg or .pdf.", metavar="FILE", show_default=False
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Describe one dataset: durations, frames, video tokens, splits, failures by class.

    Only the manifest and the failures are read. Tokens are those of all stored frames.

    \b
    Example:
      vamba data stats data/demo --plot demo.png
    """
    from pipelines.datasets.statistics import statistics
    from pipelines.datasets.statistics_plot import plot_format, write_plot
    from vamba.data.frames import FrameProcessing

    if plot is not None:
        plot_format(plot)
    processing = FrameProcessing()
    if model is not None:
        from vamba.model.pretrained import read_config_values, read_processing

        read_config_values(model)
        processing = read_processing(model)
    found = statistics(data, processing)
    values = statistics_json(data, found, processing.to_dict())
    if plot is not None:
        write_plot(found, plot)
        SESSION.note(f"{plot} shows durations, video tokens and failures.")
    if json:
        print_json(values)
    else:
        print_statistics(data, found, values)


def verify(
    data: Data,
    decode: Annotated[bool, typer.Option("--decode", help="Decode every frame, too.")] = False,
    jobs: Jobs = 0,
    json: AsJson = False,
) -> None:
    """Check every byte and every sample of a dataset against its manifest.

    The exit code is 1 where something is wrong, with a table of shard, sample and rule. Nothing is changed.

    \b
    Example:
      vamba data verify data/demo --jobs 8
    """
    from pipelines.datasets.verify import verify as verify_dataset

    def progress(done: int, total: int, size_bytes: int) -> None:
        SESSION.progress(f"verified {done} of {total} shards, {human_bytes(size_bytes)}", final=done == total)

    found = verify_dataset(data, decode=decode, num_processes=jobs, progress=progress)
    if json:
        print_json({"clean": found.clean, **asdict(found)})
    else:
        print_verification(found)
    if not found.clean:
        raise typer.Exit(FAILED)


def preview(
    data: Data,
    out: Annotated[Path, typer.Option(help="The file to write.", metavar="FILE")] = Path("preview.html"),
    samples: Annotated[int, typer.Option(help="Samples to show.", metavar="N")] = 24,
    frames: Annotated[int, typer.Option(help="Frames of each.", metavar="N")] = 8,
    ids: Annotated[
        list[str] | None, typer.Option(help="Show these samples instead: ids with commas between. Repeatable.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Draws the samples.")] = 0,
) -> None:
    """Write a contact sheet: one HTML file with frames, times and conversations of some samples.

    It opens from disk, without a server, a network or a script.

    \b
    Example:
      vamba data preview data/demo --out preview.html
    """
    from pipelines.datasets.preview import preview as preview_page
    from pipelines.storage import open_storage

    def progress(done: int, total: int) -> None:
        SESSION.progress(f"read {done} of {total} samples", final=done == total)

    chosen = [name.strip() for item in ids or [] for name in item.split(",") if name.strip()]
    page = preview_page(data, num_samples=samples, num_frames=frames, ids=chosen, seed=seed, progress=progress)
    open_storage(out.absolute().parent).write_atomic(out.name, page.encode())
    print(out)


def duplicates(
    data: Data,
    near: Annotated[bool, typer.Option("--near", help="Compare the pictures of different files, too.")] = False,
    jobs: Jobs = 0,
    json: AsJson = False,
) -> None:
    """Report videos that a dataset holds more than once. Nothing is deleted.

    \b
    Example:
      vamba data duplicates data/demo --near
    """
    from pipelines.datasets.duplicates import find_duplicates

    def progress(done: int, total: int) -> None:
        SESSION.progress(f"looked at {done} of {total} videos", final=done == total)

    found = find_duplicates(data, near=near, num_processes=jobs, progress=progress)
    if json:
        print_json(found)
    else:
        print_duplicates(found)


def _list_datasets(where: str, json: bool) -> None:
    from pipelines.manifest_io import MANIFEST_NAME

    folder = Path(where)
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, nor a dataset.")
    found = []
    for pattern in (f"*/{MANIFEST_NAME}", f"*/*/{MANIFEST_NAME}", f"*/*/*/{MANIFEST_NAME}"):
        found += [_describe(str(path.parent)) for path in sorted(folder.glob(pattern))]
    if json:
        print_json(found)
    elif not found:
        print(f"No dataset in {folder.resolve()}, three levels deep. `vamba ingest SOURCE… --out URI` makes one.")
    else:
        rows = [
            (item["uri"], item["num_samples"], item["duration"], item["num_failures"], item["size"]) for item in found
        ]
        print_table(("dataset", "samples", "video", "failed", "size"), rows)


def _describe(data: str) -> dict[str, Any]:
    from pipelines.manifest_io import read_failures, read_manifest

    manifest = read_manifest(data)
    try:
        num_failures = len(read_failures(data))
    except FileNotFoundError:
        num_failures = 0
    return described(data, manifest, num_failures)
