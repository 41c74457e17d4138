"""Accuracy of needle questions by the video's length and the needle's depth, as a picture.

EvaluationResult.by_group["cell"] ── names like 600s-25pct ──> length x depth ──> heat_map.png
"""

from __future__ import annotations

import re
from pathlib import Path

from pipelines.evaluation.result import EvaluationResult
from pipelines.evaluation.results import Tally
from pipelines.evaluation.synthetic.video_plan import CELL

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
    _draw(cells, result, path)
    return path


def _draw(cells: dict[tuple[int, int], Tally], result: EvaluationResult, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lengths, depths = sorted({length for length, _ in cells}), sorted({depth for _, depth in cells})
    accuracy = [
        [cells[length, depth].accuracy if (length, depth) in cells else float("nan") for length in lengths]
        for depth in depths
    ]
    size = (2.6 + 0.95 * len(lengths), 1.6 + 0.62 * len(depths))
    figure, axes = pyplot.subplots(figsize=size, layout="constrained")
    image = axes.imshow(accuracy, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto")
    for row, depth in enumerate(depths):
        for column, length in enumerate(lengths):
            if (length, depth) in cells:
                tally = cells[length, depth]
                text = f"{tally.accuracy:.0%}\nN {tally.num_questions}"
                ink = "black" if 0.15 < tally.accuracy < 0.9 else "white"
                axes.text(column, row, text, ha="center", va="center", fontsize=8, color=ink)
    axes.set_xticks(range(len(lengths)), [_length(length) for length in lengths])
    axes.set_yticks(range(len(depths)), [f"{depth} %" for depth in depths])
    axes.set_xlabel("length of the video")
    axes.set_ylabel("depth of the needle")
    axes.set_title(f"{result.model}: {result.metric_prefix}", fontsize=8)
    bar = figure.colorbar(image, ax=axes, label="accuracy")
    if result.chance is not None:
        bar.ax.axhline(result.chance, color="black", linewidth=1.2)
        bar.ax.text(0.5, result.chance, "chance", ha="center", va="bottom", fontsize=6)
    partial = path.with_name(f".{path.name}")
    figure.savefig(partial, dpi=120, format="png")
    pyplot.close(figure)
    partial.replace(path)


def _length(seconds: int) -> str:
    hours, minutes = seconds / 3600, seconds / 60
    return f"{hours:g} h" if hours >= 1 else f"{minutes:g} min" if minutes >= 1 else f"{seconds} s"
