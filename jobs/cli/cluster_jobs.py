"""`vamba jobs`: a submitted job's log, its state, its end, wherever it was sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.options import AsJson
from jobs.cli.output import print_json, print_pairs
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from jobs.submission.place import Place

Identity = Annotated[str, typer.Argument(help="What `vamba submit` called it.", metavar="ID")]
To = Annotated[str, typer.Option("--to", help="As for `vamba submit`: a URL, or kuberay.", metavar="PLACE")]
Namespace = Annotated[str, typer.Option(help="Kubernetes namespace (kuberay).")]
_LOCAL, _NAMESPACE = "http://127.0.0.1:8265", "vamba"


def logs(identity: Identity, to: To = _LOCAL, namespace: Namespace = _NAMESPACE) -> None:
    """Show a job's log and follow it to its end. Its exit code becomes this one's; Ctrl-C leaves it running.

    \b
    Example:
      vamba jobs logs raysubmit_8x2 --to http://127.0.0.1:8265
    """
    try:
        code = _place(identity, to, namespace).follow(identity, print)
    except KeyboardInterrupt:
        SESSION.note(f"detached: {identity} goes on")
        raise typer.Exit(0) from None
    if code:
        SESSION.note(f"{identity} ended with exit code {code}")
        raise typer.Exit(code if code > 0 else FAILED)


def status(identity: Identity, to: To = _LOCAL, namespace: Namespace = _NAMESPACE, json: AsJson = False) -> None:
    """Tell what a job is doing, or how it ended.

    \b
    Example:
      vamba jobs status vamba-train-run7 --to kuberay
    """
    found = _place(identity, to, namespace).status(identity)
    if json:
        print_json(found)
    else:
        print_pairs("Job", found)


def stop(identity: Identity, to: To = _LOCAL, namespace: Namespace = _NAMESPACE) -> None:
    """End a job by SIGTERM: training and ingest save first, and exit with 75.

    Where the run's directory can be seen, `vamba runs stop RUN` does the same without the cluster.

    \b
    Example:
      vamba jobs stop vamba-train-run7 --to kuberay
    """
    print(_place(identity, to, namespace).stop(identity))


def _place(identity: str, to: str, namespace: str) -> Place:
    """Where the job runs. Raises ValueError for what is no job's name: it becomes part of an address."""
    from jobs.submission.place import place_of

    if not re.fullmatch(r"[^\s/?#-][^\s/?#]*", identity):
        raise ValueError(
            f"{identity!r} is no job's id: `vamba submit` prints it, for example raysubmit_8x2 or vamba-train-run7."
        )
    return place_of(to, namespace)
