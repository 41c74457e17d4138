"""`vamba runs stop`: have a running job save a checkpoint and stop, from any machine that sees the run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import FAILED
from jobs.cli.run_reference import RunName, Storage, run_of
from jobs.cli.session import SESSION

if TYPE_CHECKING:
    from pipelines.training.run_directory import RunDirectory

_POLL_S = 0.5


def stop(
    run: RunName,
    wait: Annotated[
        bool, typer.Option("--wait", help="Return when the checkpoint is written and the job gone.")
    ] = False,
    storage: Storage = None,
) -> None:
    """Ask the job that trains a run to save and stop; it ends with exit code 75. `vamba resume` continues the run.

    \b
    Example:
      vamba runs stop stage2 --wait
    """
    from pipelines.training.run_lock import is_trained, running_job
    from pipelines.training.stop import request_stop

    directory = run_of(run, storage)
    job = running_job(directory)
    if job is None and not is_trained(directory):
        print(f"Run {directory.name!r} is not being trained: {_state(directory)}.")
        return
    num_events = len(directory.read_events())
    request_stop(directory)
    by = f"process {job.pid} on {job.host}" if job else "workers whose job is gone"
    print(f"Run {directory.name!r} is trained by {by}: asked to save and stop.")
    if not wait:
        return
    while running_job(directory) is not None or is_trained(directory):
        SESSION.progress(f"waiting for the checkpoint; {_state(directory)}")
        time.sleep(_POLL_S)
    SESSION.end_progress()
    ended = [event["event"] for event in directory.read_events()[num_events:]]
    print(f"Run {directory.name!r}: {_state(directory)}.")
    if not {"stopped", "finished"} & {*ended}:
        print(f"It ended without saving a last checkpoint; `vamba runs logs {directory.name}` tells why.")
        raise typer.Exit(FAILED)


def _state(directory: RunDirectory) -> str:
    from pipelines.training.checkpoint_files import checkpoint_directories

    step = max((record["step"] for _, record in directory.read_metrics()), default=0)
    finished = directory.finished_step()
    if finished is not None and finished >= step:
        return f"finished at step {finished}"
    names = [path.name for path in checkpoint_directories(directory.checkpoints)]
    saved = f"newest checkpoint of step {int(names[-1].removeprefix('step_'))}" if names else "no checkpoint yet"
    return f"trained to step {step}, {saved}"
