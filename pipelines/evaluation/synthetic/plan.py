"""What a needle suite contains, as a pure function of its seed: videos, cuts, cards and questions.

A *card* is a full-screen picture of one shape on one colour, shown for a few seconds somewhere in a video of unrelated
scenes (the haystack). A question names the shape and asks for the colour, with four options in random order. Colours
are drawn independently of shapes, places and videos, so the answer is in the video and nowhere else: without it the
best guess is right one time in four. *Blanks* are cards with a colour and no shape, so colour alone gives nothing away.

``SuiteConfig.plan`` → ``VideoPlan``: what to draw, for ``render``, and its ``Question``s, for ``suite``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from pipelines.evaluation.synthetic.haystack import Haystack, cut_scenes
from pipelines.evaluation.synthetic.shapes import SHAPES
from pipelines.evaluation.synthetic.video_plan import (
    CELL,
    COLOURS,
    LETTERS,
    Card,
    Question,
    Split,
    VideoPlan,
    cell_name,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthGroup:
    """Some videos of one split whose lengths lie in one range."""

    split: Split
    num_videos: int
    min_s: int
    max_s: int
    min_cards: int
    max_cards: int
    min_blanks: int = 0
    """Cards with a colour and no shape, per video."""
    max_blanks: int = 2
    name: str = "clip"
    """Prefix of the file name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SuiteConfig(Haystack):
    """A suite of needle videos. The same config always gives the same videos and questions."""

    groups: tuple[LengthGroup, ...]
    num_shapes: int = len(SHAPES)
    """Cards show one of the first so many shapes; a video shows each at most once."""
    shuffle_options: bool = True
    """Colours stand in random order behind the letters; off, A is always red, and so on."""

    def __post_init__(self) -> None:
        self.check()
        if not 1 <= self.num_shapes <= len(SHAPES):
            raise ValueError(f"num_shapes is {self.num_shapes}: there are {len(SHAPES)} shapes, {', '.join(SHAPES)}.")
        for group in self.groups:
            room = group.min_s // (2 * self.place_s)
            if group.max_cards + group.max_blanks > room:
                raise ValueError(
                    f"group {group.name!r}: {group.max_cards} cards and {group.max_blanks} blanks of {self.card_s} s "
                    f"do not fit apart into {group.min_s} s; at most {room} do. Lower them or raise min_s."
                )
            if group.max_cards > self.num_shapes:
                raise ValueError(
                    f"group {group.name!r}: max_cards is {group.max_cards}, but num_shapes is {self.num_shapes}."
                )

    def plan(self) -> list[VideoPlan]:
        """All videos, in order of the groups."""
        plans = []
        for group in self.groups:
            for index in range(group.num_videos):
                name = f"{group.name}-{index:04d}" if group.num_videos > 1 else group.name
                plans.append(_plan_video(self, group, name))
        return plans


def _plan_video(config: SuiteConfig, group: LengthGroup, name: str) -> VideoPlan:
    rng = random.Random(f"{config.seed}/{group.split}/{name}")
    duration_s = rng.randint(group.min_s, group.max_s)
    num_cards = rng.randint(group.min_cards, group.max_cards)
    num_blanks = rng.randint(group.min_blanks, group.max_blanks)
    starts = _place_apart(rng, config, duration_s, num_cards + num_blanks)
    shapes: list[str | None] = [*rng.sample(SHAPES[: config.num_shapes], num_cards), *[None] * num_blanks]
    rng.shuffle(shapes)
    cards = tuple(
        Card(shape=shape, colour=rng.choice(COLOURS), start_s=start, draw_seed=rng.getrandbits(32))
        for shape, start in zip(shapes, starts, strict=True)
    )
    half = config.num_textures // 2
    textures = range(half) if group.split == "train" else range(half, config.num_textures)
    asked = [_ask(rng, config, name, card, duration_s) for card in cards if card.shape is not None]
    if group.split == "test":
        asked = [replace(question, groups={CELL: _cell(question, duration_s)}) for question in asked]
    return VideoPlan(
        name=name,
        split=group.split,
        duration_s=duration_s,
        cards=cards,
        scenes=tuple(cut_scenes(rng, config, duration_s, textures)),
        questions=tuple(asked),
    )


def _place_apart(rng: random.Random, config: SuiteConfig, duration_s: int, count: int) -> list[int]:
    """``count`` start times in ascending order, each card ending before the next begins; all placements alike."""
    length = -(-config.card_s // config.align_s)
    slack = duration_s // config.align_s - count * length
    gaps = sorted(rng.randint(0, slack) for _ in range(count))
    return [(gap + index * length) * config.align_s for index, gap in enumerate(gaps)]


def _ask(rng: random.Random, config: SuiteConfig, name: str, card: Card, duration_s: int) -> Question:
    options = rng.sample(COLOURS, len(COLOURS)) if config.shuffle_options else list(COLOURS)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return Question(
        id=f"{name}-{card.shape}",
        text="\n".join([f"What colour is the card with the {card.shape}?", *lines]),
        answer=LETTERS[options.index(card.colour)],
        category="needle-colour",
        depth=card.start_s / duration_s,
    )


def _cell(question: Question, duration_s: int) -> str:
    """By the nearest quarter of the video."""
    assert question.depth is not None
    return cell_name(duration_s, round(4 * question.depth) / 4)
