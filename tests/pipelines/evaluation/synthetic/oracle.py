"""A model that sees: it finds cards in the frames it is shown and answers the suite's questions from them alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from pipelines.evaluation.synthetic.draw import CARD_RGB
from pipelines.evaluation.synthetic.shapes import SHAPES, draw_shape

_SIDE = 32
_NEAR = 45
"""Of 255: how far a card's colour may be from the one it is meant to have, after encoding."""


@dataclass(frozen=True, slots=True)
class Seen:
    """Cards in order, as (shape or "", colour)."""

    cards: tuple[tuple[str, str], ...]
    num_tokens: int = 1


class Oracle:
    """Stands in for the job's `Answerer`. blind_s: so many seconds of every video it does not see."""

    device, backends, processing, blind_s = "cpu", "oracle", None, 0

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def look(self, pixels: Iterable[np.ndarray], num_frames: int, **_: Any) -> Seen:
        """Frames of one a second. A card has two: the model's frame pair."""
        frames = [frame for piece in pixels for frame in piece]
        assert len(frames) == num_frames
        found = [read_card(frame) for frame in frames[self.blind_s : num_frames : 2]]
        return Seen(tuple(card for card in found if card is not None))

    def ask(self, memory: Seen, questions: Sequence[str], *, max_new_tokens: int) -> tuple[str, ...]:
        return tuple(_answer(memory.cards, question) for question in questions)


def read_card(frame: np.ndarray) -> tuple[str, str] | None:
    """Shape (or "" of a blank) and colour of a card; None of anything else. frame: uint8 (h, w, 3)."""
    height, width = frame.shape[:2]
    corners = frame[[1, 1, -2, -2], [1, -2, 1, -2]].astype(int)
    for colour, rgb in CARD_RGB.items():
        if np.abs(corners - rgb).max() < _NEAR:
            ink = frame[:, : width // 2].max(axis=2) < 75 if colour != "blue" else frame[:, : width // 2, 2] < 90
            shape = "" if ink.mean() < 0.02 else max(SHAPES, key=lambda name: _overlap(ink, name, width, height))
            return shape, colour
    return None


def _overlap(ink: np.ndarray, shape: str, width: int, height: int) -> float:
    drawn = np.asarray(draw_shape(shape, width // 2, height, (width / 4, height / 2), height * 0.375)) > 127
    ours, theirs = _cut_out(ink), _cut_out(drawn)
    return float((ours & theirs).sum() / (ours | theirs).sum())


def _cut_out(mask: np.ndarray) -> np.ndarray:
    """What is set, enlarged to one size."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    part = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.asarray(Image.fromarray(part).resize((_SIDE, _SIDE)))


def _answer(cards: Sequence[tuple[str, str]], question: str) -> str:
    text, *lines = question.removeprefix("<video>\n").splitlines()
    options = {option: letter for letter, option in (line.split(". ") for line in lines)}
    shapes = [shape for shape, _ in cards]
    asked = text.partition("with the ")[2].removesuffix("?").split()[:1]
    if text.startswith("Which"):
        said = next((shape for shape in shapes if shape in options), "")
    elif text.startswith("How many"):
        said = str(shapes.count(asked[0]))
    elif asked:
        said = dict(cards).get(asked[0], "")
    else:
        said = cards[-1][1] if cards else ""
    return options.get(said, "")
