"""`vamba runs profile`: a trace of some steps of a running job."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

_LOOK_EVERY_S = 0.5


def profile(
    run: Annotated[str, typer.Argument(help="Name of a run that is being trained, or its directory.")],
    steps: Annotated[int, typer.Option(help="How many steps, 1 to 100.")] = 3,
    first: Annotated[
        int, typer.Option("--from", help="The first step to profile; by default the next.", metavar="STEP", min=0)
    ] = 0,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the files; 0 returns at once.", metavar="S")] = 600,
) -> None:
    """Profile some steps of a running job with PyTorch's profiler: a Chrome trace and a table of operators.

    A request for steps that the job has not come to waits as long as `--wait` says; with `--wait 0` it stays.

    \b
    Example:
      vamba runs profile stage2 --steps 3
      vamba runs profile stage2 --from 2000 --steps 3 --wait 0
    """
    from pipelines.registry.models import find_run
    from pipelines.training.profiling import request_profile
    from pipelines.training.run_directory import RunDirectory

    path = find_run(run)
    if path is None:
        raise ValueError(f"There is no run {run!r}. `vamba runs` lists them.")
    directory = RunDirectory(path)
    before = _written(directory.profiles)
    request_profile(directory, steps, first_step=first)
    if not wait:
        print(directory.profiles)
        return
    try:
        table = _first_new(directory.profiles, before, wait)
    finally:
        directory.profile_path.unlink(missing_ok=True)  # a later job must not answer what nobody waits for
    if table is None:
        raise TimeoutError(
            f"Run {path.name!r} wrote no profile within {wait:g} s. Is it being trained? `vamba runs show {path.name}` "
            "tells; the request was taken back."
        )
    print(table)
    print(table.with_suffix(".trace.json.gz"))


def _first_new(folder: Path, before: set[Path], wait_s: float) -> Path | None:
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        new = sorted(_written(folder) - before)
        if new:
            return new[0]
        time.sleep(_LOOK_EVERY_S)
    return None


def _written(folder: Path) -> set[Path]:
    """Tables are written last."""
    return set(folder.glob("*.txt"))
