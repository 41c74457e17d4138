"""`vamba runs`: the training runs of this VAMBA_HOME."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from jobs.cli.options import AsJson
from jobs.cli.output import human_seconds, print_json, print_pairs, print_table
from jobs.cli.run_reference import RunName, Storage, run_of

if TYPE_CHECKING:
    from pipelines.training.run_directory import RunDirectory


def default(context: typer.Context, json: AsJson = False) -> None:
    """List training runs (the default), or show one.

    \b
    Example:
      vamba runs show stage2
    """
    if context.invoked_subcommand is None:
        ls(json=json)


def ls(storage: Storage = None, json: AsJson = False) -> None:
    """List the runs, newest first.

    \b
    Example:
      vamba runs ls --json
    """
    from pipelines.storage import vamba_home

    home = Path(storage).expanduser() if storage else vamba_home()
    found = [_overview_or_damage(path.parent) for path in (home / "runs").glob("*/run.json")]
    found.sort(key=lambda run: run["updated"], reverse=True)
    if json:
        print_json(found)
        return
    rows = [
        (
            run["name"],
            run["recipe"],
            run["state"],
            f"{run['step']}/{run['num_steps'] or '?'}",
            run["loss"],
            run["attempts"],
        )
        for run in found
    ]
    if not rows:
        print(f"No runs in {home / 'runs'}. `vamba train RECIPE --data URI --name RUN` makes one.")
        return
    print_table(("run", "recipe", "state", "steps", "loss", "attempts"), rows)
    for run in found:
        if run["damage"]:
            print(run["damage"])


def show(run: RunName, storage: Storage = None, json: AsJson = False) -> None:
    """Show one run: its attempts, its losses, its files.

    \b
    Example:
      vamba runs show stage2
    """
    from pipelines.registry.models import run_lineage
    from pipelines.training.checkpoint_files import checkpoint_directories
    from pipelines.training.run_directory import RunDirectory
    from pipelines.training.summary import summarize

    path = run_of(run, storage).root
    overview = _overview(path)
    status: Literal["finished", "preempted"] = "finished" if overview["state"] == "finished" else "preempted"
    summary = summarize(RunDirectory(path), status, overview["num_steps"] or overview["step"])
    if json:
        print_json({**overview, "lineage": run_lineage(path), "summary": summary})
        return
    rows = [
        (attempt.number, attempt.world_size, attempt.resumed_from_step or "start", " ".join(map(str, attempt.pids)))
        for attempt in summary.attempts
    ]
    print_table(("attempt", "workers", "from step", "pids"), rows, title=f"Run {overview['name']}: {overview['state']}")
    checkpoints = [item.name for item in checkpoint_directories(path / "checkpoints")]
    print_pairs(
        "",
        {
            "steps": f"{summary.step} of {summary.num_steps}",
            "loss": overview["loss"],
            "replayed steps": f"{summary.num_replayed_steps}, largest |Δ loss| {summary.max_replay_difference:g}",
            "checkpoints": ", ".join(checkpoints) or "none",
            "model": summary.model or "not finished",
            "directory": path,
            "training time": human_seconds(summary.wall_s),
            **run_lineage(path),
        },
    )


def _overview_or_damage(path: Path) -> dict[str, Any]:
    """One damaged run must not hide the others."""
    from pipelines.training.run_directory import DamagedFileError

    try:
        return _overview(path)
    except DamagedFileError as error:
        unknown: dict[str, Any] = dict.fromkeys(("loss", "num_steps"))
        times = {"updated": path.stat().st_mtime, "directory": str(path), "damage": str(error)}
        return {"name": path.name, "recipe": "", "state": "damaged", "step": 0, "attempts": 0, **unknown, **times}


def _overview(path: Path) -> dict[str, Any]:
    from pipelines.training.run_directory import RunDirectory

    directory = RunDirectory(path)
    events = directory.read_events()
    started = [event for event in events if event["event"] == "attempt_started"]
    last: dict[str, Any] = {}
    for _, record in directory.read_metrics():
        last = record
    num_steps = next((event["num_steps"] for event in reversed(started) if "num_steps" in event), None)
    finished_at = directory.finished_step()
    finished = finished_at is not None and finished_at >= (num_steps or 0) and directory.model.exists()
    directory.read_run()
    config = directory.read_config() if directory.config_path.exists() else {}
    return {
        "name": path.name,
        "recipe": config.get("recipe", ""),
        "state": _state(directory, finished, bool(started)),
        "step": last.get("step", 0),
        "num_steps": num_steps,
        "loss": last.get("loss"),
        "attempts": len({event["attempt"] for event in started}),
        "updated": last.get("time", path.stat().st_mtime),
        "directory": str(path),
        "damage": None,
    }


def _state(directory: RunDirectory, finished: bool, started: bool) -> str:
    from pipelines.training.run_lock import is_trained, running_job

    if running_job(directory) is not None or is_trained(directory):
        return "running"
    return "finished" if finished else "unfinished" if started else "not started"
