"""What `vamba submit --dry-run` prints: everything that would be sent, secrets by name alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from jobs.cli.output import human_bytes
from pipelines.redaction import redacted

if TYPE_CHECKING:
    from jobs.submission.plan import Submission
    from jobs.submission.sent_files import SentFiles


def plan_rows(submission: Submission, *, list_files: bool) -> Iterator[tuple[str, str]]:
    """Names and values, in the order in which one asks for them."""
    yield "to", redacted(submission.to) + (f", namespace {submission.namespace}" if submission.namespace else "")
    if submission.name:
        yield "name", submission.name
    yield "entrypoint", submission.shown_entrypoint()
    yield "image", submission.image
    yield from submission.resources.items()
    yield "needs", _needs(submission) if submission.needs else "no worker: the job runs in its driver"
    for name, value in submission.shown_environment().items():
        yield f"environment {name}", value
    for name, source in submission.secrets.items():
        yield f"secret {name}" if name != "none" else "secrets", source if name != "none" else f"none: {source}"
    if submission.sent is None:
        yield "working directory", "not sent: the image has the code"
    else:
        yield from _files(submission.sent, list_files=list_files)


def _needs(submission: Submission) -> str:
    from pipelines.capacity import counted

    needs = submission.needs
    assert needs is not None
    if needs.workers is None:
        return f"{counted(needs.fewest, 'worker')} or more, {needs.each()} each"
    together = counted(needs.workers * needs.cpus, "CPU")
    if needs.gpus:
        together += f" and {counted(needs.workers * needs.gpus, 'GPU')}"
    memory = "" if needs.gpu_memory_gb is None else f", GPUs of {needs.gpu_memory_gb:g} GiB"
    fewest = f", {needs.fewest} to begin with" if needs.fewest < needs.workers else ""
    chosen = getattr(submission.job.config, "device", "") == "auto" and not submission.documents
    gpus = ", and a GPU each where the cluster has any" if chosen else ""
    return f"{needs.words(needs.workers)}, together {together}{gpus}{memory}{fewest}"


def _files(sent: SentFiles, *, list_files: bool) -> Iterator[tuple[str, str]]:
    from jobs.submission.sent_files import EXCLUDES

    yield "working directory", str(sent.root)
    yield "sent", f"{len(sent.sizes)} files, {human_bytes(sent.size_bytes)}"
    if list_files:
        for name, size in sent.sizes.items():
            yield f"  {name}", human_bytes(size)
    else:
        for name, (count, size) in sorted(sent.by_top().items()):
            yield f"  {name}", (f"{count} files, " if name.endswith("/") else "") + human_bytes(size)
    yield "left out", " ".join(EXCLUDES)
