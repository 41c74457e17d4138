"""What all suites of synthetic videos share: the picture, the cards' time on screen, and the scenes around them."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.evaluation.synthetic.video_plan import Scene, VideoPlan

_LEAST_EDGE = 32  # pixels


@dataclass(frozen=True, slots=True, kw_only=True)
class Haystack(ABC):
    """A suite's videos, whatever is hidden in them."""

    seed: int = 0
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

    @property
    def place_s(self) -> int:
        """Seconds from one place for a card to the next."""
        return -(-self.card_s // self.align_s) * self.align_s

    def check(self) -> None:
        """ValueError for what can't be drawn or encoded."""
        if self.width % 2 or self.height % 2 or min(self.width, self.height) < _LEAST_EDGE:
            raise ValueError(
                f"width x height = {self.width}x{self.height}: both must be even (4:2:0) and at least {_LEAST_EDGE}."
            )
        for name, least in (("fps", 1), ("card_s", 1), ("align_s", 1), ("min_scene_s", 1), ("num_textures", 2)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}, but it must be at least {least}.")
        if self.max_scene_s < self.min_scene_s:
            raise ValueError(f"max_scene_s is {self.max_scene_s}, but min_scene_s is {self.min_scene_s}.")

    @abstractmethod
    def plan(self) -> list[VideoPlan]:
        """All videos, in order."""


def cut_scenes(rng: random.Random, config: Haystack, duration_s: int, textures: Sequence[int]) -> list[Scene]:
    """Scenes that fill a video, each with one of the textures."""
    scenes, at_s = [], 0
    while at_s < duration_s:
        scenes.append(Scene(start_s=at_s, texture=rng.choice(textures), draw_seed=rng.getrandbits(32)))
        at_s += rng.randint(config.min_scene_s, config.max_scene_s)
    return scenes
