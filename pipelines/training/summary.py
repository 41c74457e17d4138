"""What became of a run, read back from its directory: the attempts, where each resumed, and how exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipelines.training.run_directory import RunDirectory

Status = Literal["finished", "preempted", "already_finished"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One start of the worker group. resumed_from_step: 0 for a fresh start. pids: by rank."""

    number: int
    resumed_from_step: int
    world_size: int
    pids: tuple[int, ...]
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSummary:
    """A run after `vamba train`.

    status: "already_finished" when there was nothing left to do. model: release-layout export, None while unfinished.
    num_replayed_steps: steps trained twice because they came after the checkpoint that a later attempt started from.
    max_replay_difference: largest |loss now - loss then| over them; 0.0 means bit-identical.
    wall_s: from the first attempt's start to the last recorded step.
    """

    name: str
    status: Status
    directory: Path
    model: Path | None
    step: int
    num_steps: int
    first_loss: float | None
    final_loss: float | None
    attempts: tuple[Attempt, ...]
    num_replayed_steps: int
    max_replay_difference: float
    wall_s: float
    mlflow_run_id: str | None


def read_attempts(directory: RunDirectory) -> tuple[Attempt, ...]:
    """The attempts that reached training, oldest first."""
    started: dict[int, list[dict[str, object]]] = {}
    for event in directory.read_events():
        if event["event"] == "attempt_started":
            started.setdefault(event["attempt"], []).append(event)
    attempts = []
    for number, events in sorted(started.items()):
        ranks = {int(str(event["rank"])): event for event in events}
        first = events[0]
        attempts.append(
            Attempt(
                number=number,
                resumed_from_step=int(str(first["resumed_from_step"])),
                world_size=int(str(first["world_size"])),
                pids=tuple(int(str(ranks[rank]["pid"])) for rank in sorted(ranks)),
                started=float(str(first["time"])),
            )
        )
    return tuple(attempts)


def summarize(directory: RunDirectory, status: Status, num_steps: int) -> TrainingSummary:
    """Read the summary of a run from its files."""
    losses: dict[int, float] = {}
    differences: list[float] = []
    last_time = 0.0
    for _, record in directory.read_metrics():
        if record["step"] in losses:
            differences.append(loss_difference(record["loss"], losses[record["step"]]))
        losses[record["step"]] = record["loss"]
        last_time = record["time"]
    attempts = read_attempts(directory)
    step = max(losses, default=0)
    return TrainingSummary(
        name=directory.name,
        status=status,
        directory=directory.root,
        model=directory.model if directory.model.exists() else None,
        step=step,
        num_steps=num_steps,
        first_loss=losses.get(1),
        final_loss=losses.get(step),
        attempts=attempts,
        num_replayed_steps=len(differences),
        max_replay_difference=max(differences, default=0.0),
        wall_s=round(last_time - attempts[0].started, 3) if attempts and last_time else 0.0,
        mlflow_run_id=directory.read_run().get("mlflow_run_id"),
    )


def loss_difference(loss: float, other: float) -> float:
    """Size of the difference; that of a loss from itself is 0, whether it is a number, infinite or NaN."""
    if loss == other or (math.isnan(loss) and math.isnan(other)):
        return 0.0
    difference = abs(loss - other)
    return math.inf if math.isnan(difference) else difference
