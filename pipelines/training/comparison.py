"""Two runs side by side: what they were asked to do, and what became of it, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.training.run_directory import RunDirectory, differences, read_json
from pipelines.training.summary import loss_difference

_OWN = {"name", "storage"}


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPair:
    """The loss of one step in both runs; of a step trained several times, the last."""

    step: int
    first: float
    second: float

    @property
    def difference(self) -> float:
        return loss_difference(self.first, self.second)


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """settings: key to the values of both runs, where they differ. data: the same for the data's digest.

    losses: of the steps that both have. num_steps: that each has. first_different_step: None where all common steps
    have the same bits. same_samples: whether all common steps were trained on the same samples in the same order.
    """

    names: tuple[str, str]
    settings: Mapping[str, tuple[Any, Any]]
    data: tuple[Any, Any] | None
    num_steps: tuple[int, int]
    losses: tuple[LossPair, ...]
    first_different_step: int | None
    largest: LossPair | None
    same_samples: bool


def compare_runs(first: RunDirectory, second: RunDirectory) -> Comparison:
    """Read both runs from their directories."""
    settings = differences(_config(first), _config(second))
    digests = tuple(run.read_run().get("data_digest") for run in (first, second))
    records = _steps(first), _steps(second)
    common = sorted({*records[0]} & {*records[1]})
    losses = tuple(
        LossPair(step=step, first=records[0][step]["loss"], second=records[1][step]["loss"]) for step in common
    )
    different = [pair for pair in losses if pair.difference]
    return Comparison(
        names=(first.name, second.name),
        settings={key: pair for key, pair in settings.items() if key not in _OWN},
        data=None if digests[0] == digests[1] else (digests[0], digests[1]),
        num_steps=(len(records[0]), len(records[1])),
        losses=losses,
        first_different_step=different[0].step if different else None,
        largest=max(different, key=lambda pair: pair.difference, default=None),
        same_samples=all(records[0][step].get("sample_ids") == records[1][step].get("sample_ids") for step in common),
    )


def write_loss_plot(comparison: Comparison, path: str) -> None:
    """Both curves over each other, and their difference below, in the format that the path's ending names."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    steps = [pair.step for pair in comparison.losses]
    above.plot(steps, [pair.first for pair in comparison.losses], label=comparison.names[0], linewidth=1.5)
    above.plot(steps, [pair.second for pair in comparison.losses], "--", label=comparison.names[1], linewidth=1.2)
    above.set_ylabel("loss")
    above.legend()
    below.plot(steps, [pair.difference for pair in comparison.losses], color="0.3", linewidth=1)
    below.set_ylabel("|difference|")
    below.set_xlabel("step")
    figure.savefig(path)


def _config(directory: RunDirectory) -> dict[str, Any]:
    return read_json(directory.config_path) if directory.config_path.exists() else {}


def _steps(directory: RunDirectory) -> dict[int, dict[str, Any]]:
    return {record["step"]: record for _, record in directory.read_metrics()}
