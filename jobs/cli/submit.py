"""`vamba submit`: any job on a Ray cluster, through the Jobs API."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.output import human_bytes, print_pairs
from jobs.cli.session import SESSION


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="ingest, train, evaluate or promote.")],
    to: Annotated[str, typer.Option("--to", help="The cluster's dashboard.", metavar="URL")] = "http://127.0.0.1:8265",
    working_dir: Annotated[Path, typer.Option(help="Source tree to send.")] = Path(),
    detach: Annotated[bool, typer.Option("--detach", help="Return once submitted; don't follow the logs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
) -> None:
    """Run a job on a Ray cluster exactly as it would run here, and follow its log. Its exit code becomes this one's.

    Everything after the job's name is passed on. Data and storage must be where the cluster can see them.

    \b
    Example:
      vamba submit train instruct --data s3://bucket/data --name run7 --to http://127.0.0.1:8265
    """
    from jobs.submission import follow, plan_submission, send

    submission = plan_submission(job, context.args, working_dir=working_dir.resolve(), address=to)
    if dry_run:
        print_pairs(
            "Would submit",
            {
                "to": submission.address,
                "entrypoint": submission.entrypoint,
                "working directory": submission.working_dir,
                "sent": f"{submission.num_files} files, {human_bytes(submission.size_bytes)}",
                "left out": " ".join(submission.excludes),
                **{f"environment {name}": value for name, value in submission.shown_environment().items()},
            },
        )
        return
    identity = send(submission)
    SESSION.note(f"submitted as {identity} to {submission.address}")
    if detach:
        print(identity)
        return
    try:
        code = follow(submission, identity, print)
    except KeyboardInterrupt:
        SESSION.note(
            f"detached: {identity} goes on. Come back with `ray job logs --follow --address {to} {identity}`, "
            f"end it with `ray job stop --address {to} {identity}`."
        )
        raise typer.Exit(0) from None
    if code:
        SESSION.note(f"{identity} ended with exit code {code}")
        raise typer.Exit(code if code > 0 else FAILED)
