"""`vamba submit`: any job on a Ray cluster, on Kubernetes, or on machines of a cloud."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.output import print_pairs
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from jobs.submission.plan import Submission

_TO = "http://HOST:8265 or ray://HOST:10001 (a running Ray cluster), kuberay, or sky."
_ENV = "A variable for the job, or NAME alone for its value here; no secrets. Repeatable."
_SECRET = "A Kubernetes secret (kuberay) or a variable of the launcher (sky), by name. Repeatable."
_NODES = "Worker nodes, instead of as many as the configuration needs."


def submit(
    context: typer.Context,
    job: Annotated[str, typer.Argument(help="ingest, train, evaluate or promote.")],
    to: Annotated[str, typer.Option("--to", help=_TO, metavar="PLACE")] = "http://127.0.0.1:8265",
    working_dir: Annotated[Path, typer.Option(help="Source tree to send, with the templates in infra/.")] = Path(),
    profile: Annotated[str, typer.Option(help="dev, prod or spot (kuberay, sky).")] = "prod",
    image: Annotated[str | None, typer.Option(help="Container image, instead of the profile's.")] = None,
    namespace: Annotated[str | None, typer.Option(help="Kubernetes namespace, instead of the profile's.")] = None,
    queue: Annotated[str | None, typer.Option(help="Kueue's local queue, instead of the profile's.")] = None,
    nodes: Annotated[int | None, typer.Option(help=_NODES)] = None,
    accelerators: Annotated[str | None, typer.Option(help="GPUs of a machine, e.g. H100:8 (sky).")] = None,
    infra: Annotated[str | None, typer.Option(help="Cloud, region or zone, e.g. aws/us-west-2 (sky).")] = None,
    env: Annotated[list[str] | None, typer.Option(help=_ENV, metavar="NAME[=VALUE]")] = None,
    secret: Annotated[list[str] | None, typer.Option(help=_SECRET, metavar="NAME")] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once submitted; don't follow the logs.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be sent; send nothing.")] = False,
    list_files: Annotated[bool, typer.Option("--list-files", help="With --dry-run: every file.")] = False,
    write: Annotated[Path | None, typer.Option(help="Write the manifest there; send nothing.", metavar="FILE")] = None,
    no_capacity_check: Annotated[
        bool, typer.Option("--no-capacity-check", help="Send what the place can't hold now.")
    ] = False,
) -> None:
    """Run a job elsewhere exactly as it would run here, and follow its log. Its exit code becomes this one's.

    Everything after the job's name is passed on; what this command has too (--to, --dry-run) is the job's after `--`.
    Data and storage must be where the cluster can see them.

    \b
    Example:
      vamba submit train instruct --data s3://bucket/data --name run7 --to http://127.0.0.1:8265
      vamba submit train instruct --data s3://bucket/data --name run7 --to kuberay --profile spot --dry-run
      vamba submit promote --to kuberay -- run7 --as vamba --to champion
    """
    from jobs.submission.job import read_job
    from jobs.submission.plan import Options, given_variables
    from jobs.submission.targets import plan_submission

    options = Options(
        to=to,
        working_dir=working_dir.resolve(),
        profile=profile,
        image=image,
        namespace=namespace,
        queue=queue,
        nodes=nodes,
        environment=given_variables(env or ()),
        secrets=tuple(secret or ()),
        accelerators=accelerators,
        infra=infra,
        capacity_check=not no_capacity_check,
    )
    submission = plan_submission(read_job(job, context.args), options)
    _tell_relative_paths(submission)
    _tell_home(submission)
    if dry_run or write is not None or to == "sky":
        _show(submission, write, dry_run=dry_run, list_files=list_files)
    else:
        _send(submission, detach=detach, check=options.capacity_check)


def _tell_relative_paths(submission: Submission) -> None:
    for path in submission.job.relative_paths():
        SESSION.note(
            f"{path!r} is a relative path, and the job starts in another directory: unless it is among the files "
            "that are sent, give an absolute path on storage that every node mounts, or a URI (s3://…)"
        )


def _tell_home(submission: Submission) -> None:
    """A run's storage decides whether it can be continued; a manifest names its own."""
    if not submission.documents and submission.job.verb != "ingest" and "VAMBA_HOME" not in submission.environment:
        SESSION.note(
            "VAMBA_HOME is not set here, so the job keeps its runs where the cluster's nodes say, and is refused where "
            "they say nothing: --env VAMBA_HOME=/PATH names storage that every node mounts"
        )


def _show(submission: Submission, write: Path | None, *, dry_run: bool, list_files: bool) -> None:
    """The plan, and the manifest: on stdout behind comments, so that it can be piped into what takes it."""
    from jobs.cli.submit_plan import plan_rows
    from jobs.submission.manifests import manifest_text

    rows = list(plan_rows(submission, list_files=list_files))
    if not submission.documents:
        if write is not None:
            raise ValueError("--write is for manifests (--to kuberay, --to sky); the Jobs API takes none.")
        print_pairs("Would submit", dict(rows))
        return
    comments = [f"{name}: {value}" for name, value in rows] if dry_run else []
    text = manifest_text(submission.documents, comments if write is None else ())
    if write is None:
        print(text, end="")
    else:
        write.write_text(text, encoding="utf-8")
        print_pairs("Rendered", {**dict(rows), "manifest": write})
    SESSION.note(f"nothing was sent; next: {_next(submission, write)}")


def _next(submission: Submission, write: Path | None) -> str:
    file = write or Path("job.yaml")
    if submission.to == "sky":
        from jobs.submission.sky import launch_command

        command = launch_command(submission, file)
    else:
        command = shlex.join(["kubectl", "create", "-f", str(file)])
        command += f", then vamba jobs logs {submission.name} --to kuberay --namespace {submission.namespace}"
    return command if write else f"{command} (with this output in {file}: --write {file})"


def _send(submission: Submission, *, detach: bool, check: bool) -> None:
    from jobs.submission.places import place_of

    place = place_of(submission.to, submission.namespace)
    identity = place.send(submission, check=check, note=SESSION.note)
    SESSION.note(f"submitted as {identity} to {submission.to}")
    if detach:
        print(identity)
        return
    try:
        code = place.follow(identity, print)
    except KeyboardInterrupt:
        SESSION.note(
            f"detached: {identity} goes on. Come back with `vamba jobs logs {identity} {place.words}`, end it with a "
            f"checkpoint by `vamba jobs stop {identity} {place.words}`."
        )
        raise typer.Exit(0) from None
    if code:
        SESSION.note(f"{identity} ended with exit code {code}")
        raise typer.Exit(code if code > 0 else FAILED)
