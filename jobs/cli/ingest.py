"""`vamba ingest`: videos become a dataset of shards with a manifest."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import PREEMPTED, REFUSED
from jobs.cli.options import Address, AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_bytes, human_seconds, print_config, print_json, print_pairs, print_table
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.ingest.config import IngestConfig
    from pipelines.ingest.extension import Request
    from pipelines.ingest.sources import SourceCounts
    from pipelines.ingest.summary import IngestSummary

_NUM_LISTED = 20
Partial = Annotated[bool, typer.Option("--partial", help="Keep what decodes of damaged videos, marked as such.")]

Store = Annotated[
    str | None,
    typer.Option("--store", help="How frames are stored: jpeg (default) or h264.", metavar="STORE", show_default=False),
]


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="Paths or URIs: files, folders, globs, listings, WebDataset tars.", metavar="SOURCE"),
    ],
    out: Annotated[str, typer.Option(help="The dataset: a folder or an s3:// URI.")],
    conversations: Annotated[
        str | None, typer.Option(help="Listing of conversations or captions about the videos.", metavar="LISTING")
    ] = None,
    store: Store = None,
    ffmpeg: Annotated[Path | None, typer.Option(help="ffmpeg to use instead of the one that comes along.")] = None,
    append: Annotated[
        bool, typer.Option("--append", help="Add the new videos to the finished dataset, as its next version.")
    ] = False,
    retry_failures: Annotated[
        bool, typer.Option("--retry-failures", help="Try the videos again that failed, e.g. after repairing the files.")
    ] = False,
    partial: Partial = False,
    address: Address = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Decode videos into WebDataset shards with a Parquet manifest, on Ray Data.

    What can't be decoded is listed in failures.parquet with its reason. The same command continues an unfinished
    ingest. A finished dataset is left alone, unless --append or --retry-failures extends it.

    \b
    Example:
      vamba ingest videos/ --out data/videos --conversations questions.jsonl
      vamba ingest more/ --out data/videos --append
    """
    from pipelines.ingest.extension import Request

    if ffmpeg is not None:
        os.environ["VAMBA_FFMPEG"] = str(ffmpeg)
    resolved = configured(
        sources=sources,
        out=out,
        conversations=conversations,
        store=store,
        partial=partial,
        address=address,
        config=config,
        set_=set_,
    )
    request = Request(append=append, retry_failures=retry_failures)
    if dry_run:
        print_config(resolved)
        _print_plan(resolved, request)
    else:
        _report(resolved, request, json=json)


def configured(
    *,
    sources: Sequence[str],
    out: str,
    conversations: str | None,
    store: str | None,
    partial: bool,
    address: str | None,
    config: Path | None,
    set_: Sequence[str] | None,
    **_: object,
) -> IngestConfig:
    """The configuration that the command's options describe; those that say how it is run are passed over."""
    from pipelines.ingest.config import IngestConfig

    own = {"sources": tuple(sources), "out": out, "conversations": conversations, "ray_address": address}
    # Without an option, what the configuration says.
    arguments = {**own, "frames": {"store": store} if store else None, "partial": partial or None}
    return resolve_config(IngestConfig, recipe="ingest", file=config, assignments=set_, arguments=arguments)


def _report(resolved: IngestConfig, request: Request, *, json: bool) -> None:
    summary = _run(resolved, request)
    if json:
        print_json(summary)
    else:
        _print_summary(summary)
    if summary.budget_passed:
        _refuse(resolved)


def _refuse(config: IngestConfig) -> None:
    SESSION.note(
        f"more than {config.max_failure_fraction:.0%} of the videos failed (max_failure_fraction); the dataset "
        "holds the rest"
    )
    raise typer.Exit(REFUSED)


def _run(config: IngestConfig, request: Request) -> IngestSummary:
    from pipelines.ingest.job import run_ingest
    from pipelines.ingest.progress import Silent, TextProgress
    from pipelines.ingest.ray_metrics import RayProgress

    try:
        return run_ingest(config, RayProgress(Silent() if SESSION.quiet else TextProgress(), config), request)
    except SystemExit as ended:  # Ray makes this of SIGTERM, so that what is held is given back
        SESSION.end_progress()
        typer.echo(
            f"vamba: ended by {_signal_name(ended.code)}; the same command continues where it stopped.", err=True
        )
        raise typer.Exit(PREEMPTED) from None


def _signal_name(code: str | int | None) -> str:
    return signal.Signals(code).name if isinstance(code, int) and code in set(signal.Signals) else f"exit {code}"


def _print_summary(summary: IngestSummary) -> None:
    failures = ", ".join(f"{count} {kind}" for kind, count in summary.failures.items())
    print_pairs(
        "Already complete" if summary.was_complete else "Ingested",
        {
            "dataset": summary.out,
            "samples": f"{summary.num_videos} of {summary.num_sources}",
            **_about_sources(summary.found),
            "failed": f"{failures} (reasons: vamba data stats {summary.out})" if failures else "none",
            "media": human_seconds(summary.media_s),
            "frames": f"{summary.num_frames:,}",
            "shards": f"{summary.num_shards}, {human_bytes(summary.size_bytes)}",
            "version": summary.version,
            "digest": summary.manifest_digest,
            "reused": f"{summary.num_segments_reused} segments of an earlier run"
            if summary.num_segments_reused
            else "none",
            "took": f"{human_seconds(summary.seconds)}, {summary.real_time_factor:,.0f}x real time",
        },
    )


def _print_plan(config: IngestConfig, request: Request) -> None:
    from pipelines.ingest.extension import find_work
    from pipelines.ingest.sources import find_sources

    with find_sources(config.sources, config.conversations) as found:
        items = found.store.sources()
        if request.append or request.retry_failures:
            items = find_work(config, found.store, request).comparison.todo()
        num_sources = num_conversations = size_bytes = 0
        rows: list[tuple[str, str, str, str, int]] = []
        for item in items:
            source = item.source
            num_sources += 1
            num_conversations += len(source.conversations)
            size_bytes += max(source.size_bytes, 0)
            if len(rows) < _NUM_LISTED:
                split = source.split or "by digest"
                size = human_bytes(max(source.size_bytes, 0))
                rows.append((source.id, source.uri, size, split, len(source.conversations)))
        counts = found.counts
    print_table(("sample", "file", "size", "split", "conversations"), rows, title="Would ingest")
    print_pairs(
        "Plan",
        {
            "videos and images": f"{num_sources}, {human_bytes(size_bytes)}"
            + (f" (the first {_NUM_LISTED} are listed)" if num_sources > _NUM_LISTED else ""),
            "conversations": num_conversations,
            **_about_sources(counts),
            "to": config.out,
        },
    )


def _about_sources(counts: SourceCounts) -> dict[str, str]:
    """What was found beside the sources, as far as there is any."""
    numbers = {
        "images": counts.num_images,
        "unusable sources": counts.num_unusable,
        "files ignored": counts.num_ignored_files,
        "tar samples ignored": counts.num_ignored_samples,
        "rows of text only": counts.num_text_only_rows,
        "named but not found": counts.num_unmatched,
    }
    return {name: f"{number:,}" for name, number in numbers.items() if number}
