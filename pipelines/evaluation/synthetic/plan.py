"""What a needle suite contains, as a pure function of its seed: videos, cuts, cards and questions.

A *card* is a full-screen picture of one shape on one colour, shown for a few seconds somewhere in a video of unrelated
scenes (the haystack). A question names the shape and asks for the colour, with four options in random order. Colours
are drawn independently of shapes, places and videos, so the answer is in the video and nowhere else: without it the
best guess is right one time in four. *Blanks* are cards with a colour and no shape, so colour alone gives nothing away.

``plan_suite`` → ``VideoPlan`` (what to draw, consumed by ``render``) and its ``Question``s (consumed by ``suite``).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.evaluation.synthetic.shapes import SHAPES

COLOURS = ("red", "green", "blue", "yellow")
LETTERS = "ABCD"

Split = Literal["train", "test"]


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
class SuiteConfig:
    """A suite of needle videos. The same config always gives the same videos and questions."""

    groups: tuple[LengthGroup, ...]
    seed: int = 0
    num_shapes: int = len(SHAPES)
    """Cards show one of the first so many shapes; a video shows each at most once."""
    shuffle_options: bool = True
    """Colours stand in random order behind the letters; off, A is always red, and so on."""
    num_textures: int = 192
    """Haystack pictures; one half for the training videos, the other for the test videos."""
    width: int = 320
    """Pixels, even."""
    height: int = 180
    """Pixels, even."""
    fps: int = 8
    card_s: int = 2
    """Seconds that a card stays on screen."""
    align_s: int = 2
    """Cards begin on multiples of this: at one frame a second, two seconds are one frame pair of the model."""
    min_scene_s: int = 3
    max_scene_s: int = 12

    def __post_init__(self) -> None:
        if self.width % 2 or self.height % 2:
            raise ValueError(f"width x height = {self.width}x{self.height}: both must be even (4:2:0 video).")
        if not 1 <= self.num_shapes <= len(SHAPES):
            raise ValueError(f"num_shapes is {self.num_shapes}: there are {len(SHAPES)} shapes, {', '.join(SHAPES)}.")
        for group in self.groups:
            room = group.min_s // (2 * -(-self.card_s // self.align_s) * self.align_s)
            if group.max_cards + group.max_blanks > room:
                raise ValueError(
                    f"group {group.name!r}: {group.max_cards} cards and {group.max_blanks} blanks of {self.card_s} s "
                    f"do not fit apart into {group.min_s} s; at most {room} do. Lower them or raise min_s."
                )
            if group.max_cards > self.num_shapes:
                raise ValueError(
                    f"group {group.name!r}: max_cards is {group.max_cards}, but num_shapes is {self.num_shapes}."
                )


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
    """A multiple-choice question about one card of one video."""

    id: str
    text: str
    answer: str
    """The right letter."""
    shape: str
    depth: float
    """Where in the video the card starts, 0 to 1."""


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


def plan_suite(config: SuiteConfig) -> list[VideoPlan]:
    """All videos of the suite, in order."""
    plans = []
    for group in config.groups:
        for index in range(group.num_videos):
            name = f"{group.name}-{index:04d}" if group.num_videos > 1 else group.name
            plans.append(_plan_video(config, group, name))
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
    questions = tuple(_ask(rng, config, name, card, duration_s) for card in cards if card.shape is not None)
    return VideoPlan(
        name=name,
        split=group.split,
        duration_s=duration_s,
        cards=cards,
        scenes=tuple(_cut_scenes(rng, config, duration_s, textures)),
        questions=questions,
    )


def _place_apart(rng: random.Random, config: SuiteConfig, duration_s: int, count: int) -> list[int]:
    """``count`` start times in ascending order, each card ending before the next begins; all placements alike."""
    length = -(-config.card_s // config.align_s)
    slack = duration_s // config.align_s - count * length
    gaps = sorted(rng.randint(0, slack) for _ in range(count))
    return [(gap + index * length) * config.align_s for index, gap in enumerate(gaps)]


def _cut_scenes(rng: random.Random, config: SuiteConfig, duration_s: int, textures: Sequence[int]) -> list[Scene]:
    scenes, at_s = [], 0
    while at_s < duration_s:
        scenes.append(Scene(start_s=at_s, texture=rng.choice(textures), draw_seed=rng.getrandbits(32)))
        at_s += rng.randint(config.min_scene_s, config.max_scene_s)
    return scenes


def _ask(rng: random.Random, config: SuiteConfig, name: str, card: Card, duration_s: int) -> Question:
    options = rng.sample(COLOURS, len(COLOURS)) if config.shuffle_options else list(COLOURS)
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True)]
    return Question(
        id=f"{name}-{card.shape}",
        text="\n".join([f"What colour is the card with the {card.shape}?", *lines]),
        answer=LETTERS[options.index(card.colour)],
        shape=str(card.shape),
        depth=card.start_s / duration_s,
    )
