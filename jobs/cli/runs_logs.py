"""`vamba runs logs`: what happened to a run, in plain lines."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import print_json
from jobs.cli.run_reference import RunName, Storage, run_of

if TYPE_CHECKING:
    from pipelines.training.run_log import LogEntry

_POLL_S = 1.0


def logs(
    run: RunName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on while the run is being trained.")] = False,
    attempt: Annotated[int | None, typer.Option(help="Only this start of the workers.", metavar="N")] = None,
    storage: Storage = None,
    json: AsJson = False,
) -> None:
    """Tell what happened: starts, progress, checkpoints, notices, and what workers failed with.

    \b
    Example:
      vamba runs logs stage2 --follow
    """
    from pipelines.training.run_lock import is_trained, running_job
    from pipelines.training.run_log import log_entries

    directory = run_of(run, storage)

    def chosen() -> list[LogEntry]:
        return [entry for entry in log_entries(directory) if attempt is None or entry.attempt == attempt]

    entries = chosen()
    if json:
        print_json(entries)
        return
    for entry in entries:
        _show(entry)
    shown_until = entries[-1].time if entries else 0.0
    goes_on = follow
    while goes_on:
        # Asked before the files are read, so that the last lines of a run that ends now are still shown.
        goes_on = running_job(directory) is not None or is_trained(directory)
        if goes_on:
            time.sleep(_POLL_S)
        for entry in chosen():
            if entry.time > shown_until:
                _show(entry)
                shown_until = entry.time


def _show(entry: LogEntry) -> None:
    moment = datetime.fromtimestamp(entry.time).isoformat(sep=" ", timespec="seconds")
    print(f"{moment}  {entry.text}", flush=True)
