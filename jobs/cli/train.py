"""`vamba train`: a recipe, a dataset and a name become a run."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.cli.errors import PREEMPTED
from jobs.cli.options import Address, AsJson, Assignments, ConfigFile, DryRun, resolve_config
from jobs.cli.output import human_seconds, print_config, print_json, print_pairs, print_table
from jobs.cli.session import SESSION

Here = Annotated[
    bool, typer.Option("--here", help="Train in this process, without Ray. Under torchrun this is so by itself.")
]

if TYPE_CHECKING:
    from pipelines.training.config import TrainingConfig
    from pipelines.training.summary import TrainingSummary


def train(
    recipe: Annotated[str, typer.Argument(help="tiny_pretrain, tiny_instruct, pretrain, instruct, hour; or a YAML.")],
    data: Annotated[str, typer.Option(help="URI of an ingested dataset.")],
    name: Annotated[str, typer.Option(help="Name of the run; the same name continues it.", metavar="RUN")],
    init_from: Annotated[
        str | None, typer.Option(help="Model to start from: directory, run, or models:/ URI.", metavar="MODEL")
    ] = None,
    address: Address = None,
    config: ConfigFile = None,
    set_: Assignments = None,
    here: Here = False,
    json: AsJson = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model under Ray Train with FSDP2, tracked in MLflow.

    Killed or stopped at any moment, the same command resumes from the newest checkpoint at the exact next sample.
    Ctrl-C and SIGTERM save a checkpoint first and exit with 75.

    \b
    Example:
      vamba train tiny_instruct --data data/demo --name stage2 --init-from stage1
    """
    resolved = configured(recipe=recipe, data=data, name=name, init_from=init_from, config=config, set_=set_)
    if dry_run:
        print_config(resolved)
        _print_plan(resolved)
        return
    train_and_show(resolved, address=address, here=here, json=json)


def configured(
    *,
    recipe: str,
    data: str,
    name: str,
    init_from: str | None,
    config: Path | None,
    set_: Sequence[str] | None,
    **_: object,
) -> TrainingConfig:
    """The configuration that the command's options describe; those that say how it is run are passed over."""
    from pipelines.training.config import TrainingConfig

    arguments = {"data": data, "name": name, "recipe": recipe, "model": {"init_from": init_from} if init_from else None}
    return resolve_config(TrainingConfig, recipe=recipe, file=config, assignments=set_, arguments=arguments)


def train_and_show(config: TrainingConfig, *, address: str | None, here: bool, json: bool) -> None:
    """Train and print what became of it. Raises typer.Exit with 75 when the run was stopped before its end."""
    from pipelines.training.here import is_under_torchrun, train_here
    from pipelines.training.job import run_training

    if here or is_under_torchrun():
        summary = train_here(config, SESSION.note)
        if summary is None:
            return
    else:
        if address:
            os.environ["RAY_ADDRESS"] = address
        summary = run_training(config, SESSION.note)
    if json:
        print_json(summary)
    else:
        _print_summary(summary)
    if summary.status == "preempted":
        raise typer.Exit(PREEMPTED)


def _print_summary(summary: TrainingSummary) -> None:
    rows = [
        (attempt.number, attempt.world_size, attempt.resumed_from_step or "start", " ".join(map(str, attempt.pids)))
        for attempt in summary.attempts
    ]
    print_table(("attempt", "workers", "from step", "pids"), rows, title=f"Run {summary.name}: {summary.status}")
    losses = [f"{loss:.4f}" for loss in (summary.first_loss, summary.final_loss) if loss is not None]
    print_pairs(
        "Trained",
        {
            "steps": f"{summary.step} of {summary.num_steps}",
            "loss, first to last": " → ".join(losses),
            "replayed steps": f"{summary.num_replayed_steps}, largest |Δ loss| {summary.max_replay_difference:g}",
            "model": summary.model or "not finished",
            "run": summary.directory,
            "MLflow run": summary.mlflow_run_id or "not logged",
            "training time": human_seconds(summary.wall_s),
        },
    )


def _print_plan(config: TrainingConfig) -> None:
    from pipelines.training.job import describe_run

    plan = describe_run(config)
    print_pairs("Plan", plan.rows())
    plan.require_fit()
