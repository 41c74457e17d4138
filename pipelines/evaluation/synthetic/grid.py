"""Needle-in-a-video by length and depth, with questions about order, number and the last card: a plan from a seed.

Every video of a length holds a needle at each depth, cards of one more shape that are there to be counted, and blanks,
one of which ends it.
One video answers them all, so a model encodes it once:

    needle     what colour is the card with the star?          one for each depth: a cell of length x depth
    order      which of these four cards comes first?
    count      how many cards with a moon are there?            one to four, equally often
    last_seen  what colour is the last card of the video?

Colours, shapes, numbers and order are drawn independently of each other and of the options' order, so the text alone
is right one time in four.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipelines.evaluation.synthetic.haystack import Haystack, cut_scenes
from pipelines.evaluation.synthetic.shapes import SHAPES
from pipelines.evaluation.synthetic.video_plan import (
    CELL,
    COLOURS,
    LETTERS,
    Card,
    Question,
    VideoPlan,
    cell_name,
)

KINDS = ("needle", "order", "count", "last_seen")
_COUNTS = (1, 2, 3, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class GridConfig(Haystack):
    """A grid of lengths and depths. The same config always gives the same videos and questions."""

    lengths_s: tuple[int, ...]
    """Lengths of the videos, seconds."""
    depths: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    """Where needles stand: 0 is the first place that fits, 1 the last but the one that a blank has."""
    videos_per_length: int = 4
    blanks: int = 2
    """Cards with a colour and no shape, per video; one of them is its last."""

    def __post_init__(self) -> None:
        self.check()
        if not self.lengths_s or len(set(self.lengths_s)) < len(self.lengths_s) or min(self.lengths_s) < 1:
            raise ValueError(f"lengths_s is {list(self.lengths_s)}: give different lengths of at least a second.")
        if not all(0 <= depth <= 1 for depth in self.depths) or len(set(self.depths)) < len(self.depths):
            raise ValueError(f"depths is {list(self.depths)}: give different ones from 0 to 1.")
        if not 4 <= len(self.depths) < len(SHAPES):
            raise ValueError(
                f"depths has {len(self.depths)} entries: an order is asked of four cards, and one of the {len(SHAPES)} "
                f"shapes is there to be counted, so give 4 to {len(SHAPES) - 1}."
            )
        if self.videos_per_length < 1 or self.blanks < 1:
            raise ValueError(
                f"videos_per_length is {self.videos_per_length} and blanks {self.blanks}; at least one each is needed."
            )
        most = len(self.depths) + max(_COUNTS) + self.blanks
        for length_s in self.lengths_s:
            places = {self._place(depth, length_s) for depth in self.depths}
            if len(places) < len(self.depths) or 2 * most > self._num_places(length_s):
                raise ValueError(
                    f"lengths_s has {length_s} s, in which {most} cards of {self.card_s} s and needles at "
                    f"{len(self.depths)} depths don't fit apart: leave it out, or have fewer depths or blanks."
                )

    def plan(self) -> list[VideoPlan]:
        """All videos, shortest first."""
        return [
            self._plan_video(length_s, video)
            for length_s in sorted(self.lengths_s)
            for video in range(self.videos_per_length)
        ]

    def _plan_video(self, length_s: int, video: int) -> VideoPlan:
        name = f"{length_s}s-{video:02d}"
        rng = random.Random(f"grid/{self.seed}/{name}")
        needle_places = [self._place(depth, length_s) for depth in self.depths]
        shapes = rng.sample(SHAPES, len(self.depths) + 1)
        counted, needle_shapes = shapes[0], shapes[1:]
        # Equally often: every four videos of a length have each number once.
        number = random.Random(f"grid/{self.seed}/{length_s}/{video // 4}").sample(_COUNTS, 4)[video % 4]
        last = self._num_places(length_s) - 1
        free = [place for place in range(last) if place not in needle_places]
        others = [*rng.sample(free, number + self.blanks - 1), last]
        kinds: list[str | None] = [*needle_shapes, *[counted] * number, *[None] * self.blanks]
        cards = sorted(
            (
                Card(
                    shape=shape,
                    colour=rng.choice(COLOURS),
                    start_s=place * self.place_s,
                    draw_seed=rng.getrandbits(32),
                )
                for shape, place in zip(kinds, [*needle_places, *others], strict=True)
            ),
            key=lambda card: card.start_s,
        )
        needles = {card.shape: card for card in cards if card.shape in needle_shapes}
        asked = [
            _needle(rng, name, needles[shape], length_s, depth)
            for shape, depth in zip(needle_shapes, self.depths, strict=True)
        ]
        asked += [
            _order(rng, name, rng.sample([needles[shape] for shape in needle_shapes], 4)),
            _count(name, counted, number),
            _last_seen(rng, name, cards[-1]),
        ]
        textures = range(self.num_textures // 2, self.num_textures)
        return VideoPlan(
            name=name,
            split="test",
            duration_s=length_s,
            cards=tuple(cards),
            scenes=tuple(cut_scenes(rng, self, length_s, textures)),
            questions=tuple(asked),
        )

    def _num_places(self, length_s: int) -> int:
        """Places for one card each."""
        return length_s // self.place_s

    def _place(self, depth: float, length_s: int) -> int:
        return round(depth * (self._num_places(length_s) - 2))


def _needle(rng: random.Random, name: str, card: Card, length_s: int, depth: float) -> Question:
    groups = {CELL: cell_name(length_s, depth)}
    text = f"What colour is the card with the {card.shape}?"
    return _choice(rng, f"{name}-{card.shape}", "needle", text, card.colour, COLOURS, groups)


def _order(rng: random.Random, name: str, cards: Sequence[Card]) -> Question:
    first = min(cards, key=lambda card: card.start_s)
    shapes = [str(card.shape) for card in cards]
    return _choice(rng, f"{name}-order", "order", "Which of these cards comes first?", str(first.shape), shapes)


def _count(name: str, shape: str, number: int) -> Question:
    options = [str(count) for count in _COUNTS]
    return _lettered(f"{name}-count", "count", f"How many cards with the {shape} are there?", str(number), options)


def _last_seen(rng: random.Random, name: str, card: Card) -> Question:
    return _choice(rng, f"{name}-last", "last_seen", "What colour is the last card?", card.colour, COLOURS)


def _choice(
    rng: random.Random,
    identity: str,
    kind: str,
    text: str,
    answer: str,
    options: Sequence[str],
    groups: Mapping[str, str] | None = None,
) -> Question:
    return _lettered(identity, kind, text, answer, rng.sample(options, len(options)), groups)


def _lettered(
    identity: str, kind: str, text: str, answer: str, options: Sequence[str], groups: Mapping[str, str] | None = None
) -> Question:
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return Question(
        id=identity,
        text="\n".join([text, *lines]),
        answer=LETTERS[options.index(answer)],
        category=kind,
        groups=dict(groups or {}),
    )
