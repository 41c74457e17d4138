"""How a verb is told which run it is about, and how it finds the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from pipelines.training.run_directory import RunDirectory

RunName = Annotated[str, typer.Argument(help="Name of a run, or its directory.")]
Storage = Annotated[
    str | None,
    typer.Option(help="Directory that holds `runs/`; by default $VAMBA_HOME, else ./.vamba.", metavar="DIRECTORY"),
]


def run_of(run: str, storage: str | None = None) -> RunDirectory:
    """The run, by name below `storage` or VAMBA_HOME, or by its path. Raises ValueError where there is none."""
    from pipelines.registry.models import find_run
    from pipelines.storage import vamba_home
    from pipelines.training.run_directory import RunDirectory

    if storage is not None:
        path: Path | None = Path(storage).expanduser().resolve() / "runs" / run
        path = path if path is not None and (path / "run.json").is_file() else None
    else:
        path = find_run(run)
    if path is None:
        where = storage or str(vamba_home())
        raise ValueError(
            f"There is no run {run!r} in {where}. `vamba runs` lists them; one that was trained with another storage "
            "is found by --storage DIRECTORY, or by its path."
        )
    return RunDirectory(path)
