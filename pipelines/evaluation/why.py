"""What answers looked at, as a picture: attention over the time of the video, with the frames where it was highest.

    answers, VideoMemory ── a pass over the text each ──> weight of every frame pair ── peaks ──> frames, decoded again ──> PNG

The weight is that of cross-attention, averaged over layers, heads and the answer's tokens; all pairs together weigh 1. It is
drawn relative to an even look at the whole video, so 1 means that a moment was looked at as much as any other.
"""  # noqa: E501

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.storage import open_storage

NUM_PEAKS = 6
_APART = 24  # a video's length over the least distance of two peaks
_FORMATS = ("png", "svg", "pdf")
_TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200)
_COLOUR, _EVEN = "#3867d6", "#8a8f98"


@dataclass(frozen=True, slots=True, kw_only=True)
class Peak:
    """A moment that was looked at more than those about it. weight: of its frame pair, of 1 in all."""

    time_s: float
    weight: float
    pair: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One answer. times_s, weights: of every frame pair, in order; the weights add up to 1."""

    question: str
    answer: str
    times_s: tuple[float, ...]
    weights: tuple[float, ...]
    peaks: tuple[Peak, ...]


def looked(question: str, answer: str, times_s: Sequence[float], weights: Sequence[float]) -> Looked:
    return Looked(
        question=question, answer=answer, times_s=tuple(times_s), weights=tuple(weights),
        peaks=peaks(times_s, weights),
    )  # fmt: skip


def peaks(times_s: Sequence[float], weights: Sequence[float], most: int = NUM_PEAKS) -> tuple[Peak, ...]:
    """The highest weights above an even look, none nearer to a higher one than a 24th of the video; in order of time.

    One at the least, so that a video that was looked at evenly has a frame as well.
    """
    distance_s = (times_s[-1] - times_s[0]) / _APART
    chosen: list[int] = []
    for pair in sorted(range(len(weights)), key=lambda pair: (-weights[pair], pair)):
        is_low = weights[pair] * len(weights) <= 1 and bool(chosen)
        if len(chosen) == most or is_low:
            break
        if all(abs(times_s[pair] - times_s[other]) > distance_s for other in chosen):
            chosen.append(pair)
    return tuple(Peak(time_s=times_s[pair], weight=weights[pair], pair=pair) for pair in sorted(chosen))


def picture_format(path: Path) -> str:
    """The picture's format. ValueError for a name that ends otherwise, or a directory that does not exist."""
    found = path.suffix.lower().removeprefix(".")
    if found not in _FORMATS:
        raise ValueError(f"--why is {str(path)!r}; its name must end in one of .{', .'.join(_FORMATS)}")
    if not path.expanduser().absolute().parent.is_dir():
        raise ValueError(f"--why {path}: its directory does not exist; make it first.")
    return found


def write_picture(answers: Sequence[Looked], frames: Mapping[int, np.ndarray], path: Path) -> None:
    """Draw a band for each answer; the file appears complete. frames: uint8[H, W, 3] by frame pair, as far as known."""
    from matplotlib.figure import Figure

    kind = picture_format(path)
    figure = Figure(figsize=(12, 4.4 * len(answers)), layout="constrained")
    bands = figure.subfigures(len(answers), 1, squeeze=False)
    for band, one in zip(bands[:, 0], answers, strict=True):
        _band(band, one, frames)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of a script that the font lacks: boxes, and no lines each
        figure.savefig(buffer, format=kind, dpi=110)
    target = path.expanduser().absolute()
    open_storage(target.parent).write_atomic(target.name, buffer.getvalue())


def _band(band: Any, one: Looked, frames: Mapping[int, np.ndarray]) -> None:
    shown = [peak for peak in one.peaks if peak.pair in frames]
    title = _shortened(f"{one.question.strip().splitlines()[0]}  →  {one.answer}")
    band.suptitle(title, fontsize=11, parse_math=False)  # two dollars are an amount, and no formula
    grid = band.add_gridspec(2 if shown else 1, max(1, len(shown)), height_ratios=[1.3, 1] if shown else [1])
    for column, peak in enumerate(shown):
        axes = band.add_subplot(grid[0, column])
        axes.imshow(frames[peak.pair])
        axes.set_axis_off()
        axes.set_title(f"{one.peaks.index(peak) + 1}: {clock(peak.time_s)}", fontsize=9)
    _timeline(band.add_subplot(grid[-1, :]), one)


def _timeline(axes: Any, one: Looked) -> None:
    from matplotlib.ticker import FuncFormatter, MultipleLocator

    relative = np.asarray(one.weights) * len(one.weights)
    axes.fill_between(one.times_s, relative, step="mid", color=_COLOUR, alpha=0.75, linewidth=0)
    axes.axhline(1, color=_EVEN, linewidth=0.8, linestyle="--")
    for number, peak in enumerate(one.peaks, start=1):
        height = peak.weight * len(one.weights)
        axes.annotate(str(number), (peak.time_s, height), ha="center", va="bottom", fontsize=9)
    axes.set(ylabel="attention; 1: an even look", ylim=(0, max(1.2, 1.15 * float(relative.max()))))
    length_s = one.times_s[-1] - one.times_s[0]
    axes.xaxis.set_major_locator(MultipleLocator(next((s for s in _TICKS_S if length_s / s <= 10), 36000)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: clock(seconds)))
    axes.margins(x=0.01)


def clock(seconds: float) -> str:
    """A time as people read it, h:mm:ss or m:ss."""
    whole = round(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def _shortened(text: str, most: int = 110) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
