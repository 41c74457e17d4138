"""`vamba checkpoints`: what a run has saved, whether it is whole, and what may go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.cli.options import AsJson, without_secrets
from jobs.cli.output import human_bytes, print_json, print_table
from jobs.cli.run_reference import RunName, run_of

if TYPE_CHECKING:
    from pipelines.training.checkpoint_files import Checkpoint
    from pipelines.training.checkpoints import CheckpointStore
    from pipelines.training.run_directory import RunDirectory

Step = Annotated[int, typer.Argument(help="Optimizer step of the checkpoint.")]


def ls(run: RunName, json: AsJson = False) -> None:
    """List a run's checkpoints, oldest first; files are not read.

    \b
    Example:
      vamba checkpoints ls stage2
    """
    from pipelines.training.checkpoint_files import quarantined
    from pipelines.training.evaluations import read_evaluations

    directory = run_of(run)
    store = _store(directory)
    expired = {checkpoint.step for checkpoint in store.expired()}
    best = {checkpoint.step for checkpoint in store.best()}
    losses = read_evaluations(directory)
    rows = [_row(checkpoint, expired, best, losses) for checkpoint in store.committed()]
    aside = [path.name for path in quarantined(store.directory)]
    if json:
        print_json({"checkpoints": rows, "quarantined": aside})
        return
    table = [
        (
            row["step"],
            row["created"],
            human_bytes(row["size_bytes"]),
            row["world_size"],
            row["evaluation_loss"],
            row["kept_because"],
        )
        for row in rows
    ]
    print_table(("step", "written", "size", "workers", "evaluation loss", "kept because"), table)
    for name in aside:
        print(f"{name}: set aside; events.jsonl says why")


def verify(run: RunName, json: AsJson = False) -> None:
    """Read every byte of a run's checkpoints and compare sizes and hashes. Nothing is moved; exit code 1 for damage.

    \b
    Example:
      vamba checkpoints verify stage2
    """
    from pipelines.training.checkpoint_files import Checkpoint, checkpoint_directories, open_checkpoint

    store = _store(run_of(run))
    rows = []
    for path in checkpoint_directories(store.directory):
        opened = open_checkpoint(path)
        damage = opened.find_damage() if isinstance(opened, Checkpoint) else opened
        rows.append({"checkpoint": path.name, "damage": damage})
        if not json:
            print(f"{path.name}: {damage or 'whole'}")
    if json:
        print_json(rows)
    elif not rows:
        print(f"{store.directory} holds no checkpoint.")
    if any(row["damage"] for row in rows):
        raise typer.Exit(1)


def gc(
    run: RunName,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, and remove nothing.")] = False,
    json: AsJson = False,
) -> None:
    """Remove what the run does not need: killed writes, checkpoints set aside, and those the retention rule lets go.

    Refused while the run trains. Pinned checkpoints stay, and so do those of registered versions.

    \b
    Example:
      vamba checkpoints gc stage2 --dry-run
    """
    import shutil

    from pipelines.training.checkpoint_files import leftovers, quarantined, size_on_disk
    from pipelines.training.run_lock import RunBusyError, exclusive, running_job

    directory = run_of(run)
    store = _store(directory)
    job = running_job(directory)
    if job is not None:  # between two groups of workers, or before the first
        raise RunBusyError(
            f"Run {directory.name!r} is being trained by process {job.pid} on {job.host}: nothing is removed."
        )
    with exclusive(directory, timeout_s=0):
        paths = [*leftovers(store.directory), *quarantined(store.directory)]
        paths += [checkpoint.directory for checkpoint in store.expired()]
        sizes = {path.name: size_on_disk(path) for path in paths}
        if not dry_run:
            store.remove_expired()
            for path in paths:
                shutil.rmtree(path, ignore_errors=True)
    if json:
        print_json({"removed": sizes, "dry_run": dry_run})
        return
    verb = "would be removed" if dry_run else "removed"
    for name, size_bytes in sizes.items():
        print(f"{name}: {verb}, {human_bytes(size_bytes)}")
    print(f"{human_bytes(sum(sizes.values()))} in {len(sizes)} {verb}.")


def pin(
    run: RunName,
    step: Step,
    reason: Annotated[
        str, typer.Option("--reason", help="Why it must be kept; shown by ls.", callback=without_secrets)
    ],
) -> None:
    """Keep a checkpoint whatever the retention rule says.

    \b
    Example:
      vamba checkpoints pin stage2 4000 --reason "table 3 of the report"
    """
    from pipelines.training.checkpoint_files import set_pin

    set_pin(_checkpoint(run, step).directory, reason)
    print(f"step {step} is kept: {reason}")


def unpin(run: RunName, step: Step) -> None:
    """Leave a checkpoint to the retention rule again.

    \b
    Example:
      vamba checkpoints unpin stage2 4000
    """
    from pipelines.training.checkpoint_files import remove_pin

    remove_pin(_checkpoint(run, step).directory)
    print(f"step {step} is left to the retention rule")


def _row(checkpoint: Checkpoint, expired: set[int], best: set[int], losses: Mapping[int, float]) -> dict[str, Any]:
    from datetime import UTC, datetime

    because = "nothing: it goes with the next save" if checkpoint.step in expired else "the retention rule"
    if checkpoint.step in best:
        because = "the best evaluation"
    if checkpoint.versions:
        because = f"registered as {', '.join(checkpoint.versions)}"
    created = datetime.fromtimestamp(checkpoint.meta["created"], UTC).isoformat(timespec="seconds")
    return {
        "step": checkpoint.step,
        "created": created,
        "size_bytes": checkpoint.size_bytes,
        "world_size": checkpoint.meta["world_size"],
        "evaluation_loss": losses.get(checkpoint.step),
        "frozen_digest": checkpoint.frozen_digest,
        "kept_because": f"pinned: {checkpoint.pin}" if checkpoint.pin is not None else because,
        "versions": list(checkpoint.versions),
        "directory": str(checkpoint.directory),
    }


def _store(directory: RunDirectory) -> CheckpointStore:
    """The run's store, with the retention rule that the run was started with."""
    from functools import partial

    from pipelines.training.checkpoints import CheckpointStore
    from pipelines.training.evaluations import read_evaluations
    from pipelines.training.retention import Retention

    rule = directory.read_config().get("checkpoints", {}) if directory.config_path.exists() else {}
    return CheckpointStore(
        directory.checkpoints,
        retention=Retention(**rule),
        notify=directory.append_event,
        evaluations=partial(read_evaluations, directory),
    )


def _checkpoint(run: str, step: int) -> Checkpoint:
    store = _store(run_of(run))
    found = {checkpoint.step: checkpoint for checkpoint in store.committed()}
    if step not in found:
        known = ", ".join(map(str, found)) or "none"
        raise ValueError(f"Run {run!r} has no checkpoint of step {step}; it has {known}.")
    return found[step]
