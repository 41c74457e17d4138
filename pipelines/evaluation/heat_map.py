"""Accuracy of needle questions by the video's length and the needle's depth, as a picture.

EvaluationResult.by_group["cell"] ── names like 600s-25pct ──> length x depth ──> heat_map.png
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import nan
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.results import Tally
from pipelines.evaluation.synthetic.video_plan import CELL

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEAT_MAP_NAME = "heat_map.png"
_CELL = re.compile(r"(\d+)s-(\d+)pct")


def cells_of(result: EvaluationResult) -> dict[tuple[int, int], Tally]:
    """By length in seconds and depth in percent; empty where the questions have no such cells."""
    found = result.by_group.get(CELL, {})
    matches = {name: _CELL.fullmatch(name) for name in found}
    return {(int(match[1]), int(match[2])): found[name] for name, match in matches.items() if match}


def write_heat_map(result: EvaluationResult) -> Path | None:
    """`heat_map.png` in the result's directory; None where there are no cells to draw."""
    cells = cells_of(result)
    if not cells:
        return None
    path = Path(result.directory) / HEAT_MAP_NAME
    partial = path.with_name(f".{path.name}")
    draw(cells, chance=result.chance, title=f"{_short(result.model)}: {result.metric_prefix}").savefig(
        partial, dpi=120, format="png"
    )
    partial.replace(path)
    return path


def draw(cells: Mapping[tuple[int, int], Tally], *, chance: float | None, title: str) -> Figure:
    """A column for each length and a row for each depth; a cell has its accuracy as colour and number, and its N."""
    from matplotlib.figure import Figure

    lengths, depths = sorted({length for length, _ in cells}), sorted({depth for _, depth in cells})
    accuracy = [
        [cells[length, depth].accuracy if (length, depth) in cells else nan for length in lengths] for depth in depths
    ]
    figure = Figure(figsize=(2.6 + 0.95 * len(lengths), 1.6 + 0.62 * len(depths)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(accuracy, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for (length, depth), tally in cells.items():
        text = f"{tally.accuracy:.0%}\nN {tally.num_questions}"
        ink = "black" if 0.15 < tally.accuracy < 0.9 else "white"
        axes.text(lengths.index(length), depths.index(depth), text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(lengths)), [_length(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths])
    axes.set_xlabel("length of the video")
    axes.set_ylabel("depth of the needle")
    axes.set_title(title, fontsize=8)
    bar = figure.colorbar(image, ax=axes, label="accuracy")
    marks = {0.0: "0%", 0.5: "50%", 1.0: "100%"}
    if chance is not None:
        bar.ax.axhline(chance, color="black", linewidth=1.5)
        marks[chance] = f"{chance:.0%}\nchance"
    bar.set_ticks(list(marks), labels=list(marks.values()))
    return figure


def _short(model: str) -> str:
    """A directory by its last part; a run or a registered version as it is called."""
    return Path(model).name if Path(model).is_absolute() else model


def _length(seconds: int) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds} s"
