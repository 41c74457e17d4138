"""What a video of a suite shows and what is asked about it: the plan that `render` draws and `suite` writes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

COLOURS = ("red", "green", "blue", "yellow")
LETTERS = "ABCD"
CELL = "cell"
"""The grouping that a heat map is drawn from."""

Split = Literal["train", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """One full-screen card; ``shape`` is None for a blank."""

    shape: str | None
    colour: str
    start_s: int
    draw_seed: int
    """Decides size, place and shade of the drawing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """A piece of haystack between two cuts."""

    start_s: int
    texture: int
    draw_seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A multiple-choice question about the cards of one video."""

    id: str
    text: str
    answer: str
    """The right letter."""
    category: str
    depth: float | None = None
    """Where in the video the card starts that it is about, 0 to 1."""
    groups: Mapping[str, str] = field(default_factory=dict)
    """More labels to group results by, of each grouping."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoPlan:
    """One video to draw, and what is asked about it."""

    name: str
    """File name without directory or suffix."""
    split: Split
    duration_s: int
    cards: tuple[Card, ...]
    scenes: tuple[Scene, ...]
    questions: tuple[Question, ...]


def cell_name(length_s: int, depth: float) -> str:
    """`600s-25pct`, as it stands in metric names."""
    return f"{length_s}s-{round(100 * depth)}pct"
