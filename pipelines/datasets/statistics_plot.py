"""Statistics as a picture: durations and video tokens as histograms by split, failures by class as bars.

Statistics ──> matplotlib figure ──> PNG, SVG or PDF, by the file's name. The figure is made without pyplot, so that no
display is asked for and no state is left behind.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pipelines.datasets.statistics import Measured, Statistics
from pipelines.storage import open_storage

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = ("png", "svg", "pdf")
_COLOURS = {"train": "#3867d6", "validation": "#e2902c", "test": "#17805a"}
_LEAST_BINS, _MOST_BINS = 8, 40
_LOGARITHMIC_FROM = 20  # where the longest is this many times the shortest
_UNITS_S = (("hours", 3600.0), ("minutes", 60.0), ("seconds", 1.0))


def plot_format(path: Path) -> str:
    """The picture's format. ValueError for a name that ends otherwise."""
    found = path.suffix.lower().removeprefix(".")
    if found not in FORMATS:
        raise ValueError(f"--plot is {str(path)!r}; its name must end in one of .{', .'.join(FORMATS)}")
    return found


def write_plot(statistics: Statistics, path: Path) -> None:
    """Draws the picture; the file appears complete."""
    from matplotlib.figure import Figure

    kind = plot_format(path)
    figure = Figure(figsize=(15, 4.6), layout="constrained")
    durations, tokens, failures = figure.subplots(1, 3)
    longest_s = max((item.row.duration_ns for item in statistics.samples), default=0) / 1e9
    unit, unit_s = next((entry for entry in _UNITS_S if longest_s >= 2 * entry[1]), _UNITS_S[-1])
    _histogram(
        durations,
        {
            split: [item.row.duration_ns / 1e9 / unit_s for item in _of(statistics, split)]
            for split in statistics.splits
        },
    )
    durations.set(title="Durations", xlabel=f"duration of the video, {unit}", ylabel="samples")
    _histogram(
        tokens,
        {
            split: [item.video_tokens for item in _of(statistics, split) if item.video_tokens is not None]
            for split in statistics.splits
        },
    )
    tokens.set(title="Video tokens", xlabel="video tokens of a sample, all stored frames", ylabel="samples")
    _failures(failures, statistics.failures_by_class)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=130)
    open_storage(path.absolute().parent).write_atomic(path.name, buffer.getvalue())


def _of(statistics: Statistics, split: str) -> list[Measured]:
    return [item for item in statistics.samples if item.row.split == split]


def _histogram(axes: Axes, values: dict[str, Sequence[float]]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    values = {split: found for split, found in values.items() if len(found)}
    everything = np.concatenate([np.asarray(found, float) for found in values.values()]) if values else np.zeros(0)
    if not everything.size:
        axes.text(0.5, 0.5, "no samples", ha="center", va="center", transform=axes.transAxes)
        return
    low, high = float(everything.min()), float(everything.max())
    num_bins = min(max(_LEAST_BINS, 2 * round(everything.size**0.5)), _MOST_BINS)
    logarithmic = low > 0 and high / low >= _LOGARITHMIC_FROM
    if logarithmic:
        edges = np.geomspace(low, high, num_bins + 1)
    else:
        # One value for all is a bar of its own width.
        edges = np.linspace(low, high, num_bins + 1) if high > low else np.array([low - 0.5, high + 0.5])
    axes.hist(
        list(values.values()),
        bins=edges.tolist(),
        stacked=True,
        label=[f"{split} ({len(found):,})" for split, found in values.items()],
        color=[_COLOURS[split] for split in values],
    )
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.3)  # room for the legend
    axes.legend(frameon=False, loc="upper right")


def _failures(axes: Axes, counts: dict[str, int]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set(title=f"Failures by class ({sum(counts.values()):,})", xlabel="files")
    if not counts:
        axes.text(0.5, 0.5, "every file was ingested", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    bars = axes.barh(list(counts), list(counts.values()), color="#b3372c")
    axes.bar_label(bars, padding=3)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.invert_yaxis()
    axes.margins(x=0.12)
