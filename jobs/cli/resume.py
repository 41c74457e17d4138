"""`vamba resume`: continue a run by its name alone, with the configuration that it was started with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.options import Address, AsJson, Assignments, DryRun
from jobs.cli.output import print_config
from jobs.cli.run_reference import RunName, Storage, run_of
from jobs.cli.session import SESSION
from jobs.cli.train import Here, train_and_show

if TYPE_CHECKING:
    from pipelines.training.config import TrainingConfig
    from pipelines.training.run_directory import RunDirectory


def resume(
    run: RunName,
    set_: Assignments = None,
    storage: Storage = None,
    mirror: Annotated[
        str | None,
        typer.Option(help="Where the run was copied to: it is brought back from there first.", metavar="URI"),
    ] = None,
    address: Address = None,
    here: Here = False,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Continue a run from its newest checkpoint, at the exact next sample.

    Takes the configuration from the run itself. --set changes what may change on the way (workers, how often to
    save, more steps, …); anything else is refused with the fields that differ, and so are a model or data that are no
    longer those of the start. A finished run says so.

    \b
    Example:
      vamba resume stage2 --set workers.num_workers=4
      vamba resume stage2 --mirror s3://bucket/runs      # on another machine
    """
    if mirror is not None:
        _bring_back(run, storage, mirror)
    config = stored_config(run_of(run, storage), set_ or [])
    if dry_run:
        print_config(config)
        return
    train_and_show(config, address=address, here=here, json=json)


def _bring_back(run: str, storage: str | None, mirror: str) -> None:
    """Fetch what the mirror has and this machine lacks. Raises ValueError where neither has the run."""
    from pipelines.training.mirror import mirror_of
    from pipelines.training.mirror_back import bring_back
    from pipelines.training.run_directory import run_directory
    from pipelines.training.run_lock import only_job

    directory = run_directory(storage, run)
    with only_job(directory):
        bring_back(mirror, directory, SESSION.note)
    if not directory.run_path.exists():
        raise ValueError(
            f"There is no checkpoint of a run {run!r} in {mirror_of(mirror, run)}, nor the run itself here."
        )


def stored_config(directory: RunDirectory, assignments: list[str]) -> TrainingConfig:
    """The run's own configuration with `--set` laid over it. Raises ConfigError, or ValueError for a broken run."""
    from jobs.config import Layer, resolve, set_layer
    from pipelines.training.config import TrainingConfig

    if not directory.config_path.is_file():
        raise ValueError(
            f"{directory.root} has no config.json: it never started, or lost it. Use `vamba train` as at the start."
        )
    if directory.root.parent.name != "runs":
        raise ValueError(f"{directory.root} is not in a folder named runs, where runs are continued: move it into one.")
    tree = directory.read_config()
    # Where it lies now, which is where it was trained unless somebody has moved, renamed or copied it.
    tree |= {"storage": str(directory.root.parent.parent), "name": directory.name}
    layers = [Layer(name=str(directory.config_path), tree=tree)]
    if assignments:
        layers.append(set_layer(assignments))
    return resolve(TrainingConfig, layers)
