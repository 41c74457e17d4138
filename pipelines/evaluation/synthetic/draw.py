"""Pictures of the suite as 4:2:0 planes: haystack textures that a camera pans over, and the cards.

Everything is drawn once with Pillow and numpy and then only cropped, so that an hour of video costs little more than
its encoding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from pipelines.evaluation.synthetic.shapes import draw_shape
from pipelines.evaluation.synthetic.video_plan import Card, Scene

CARD_RGB = {"red": (205, 40, 40), "green": (40, 165, 60), "blue": (45, 70, 205), "yellow": (230, 205, 40)}
INK_RGB = (8, 8, 8)


@dataclass(frozen=True, slots=True)
class Planes:
    """A picture as 8-bit BT.709 limited-range Y (h, w), U and V (h/2, w/2)."""

    y: np.ndarray
    u: np.ndarray
    v: np.ndarray

    def tobytes(self) -> bytes:
        """Raw yuv420p, as ffmpeg's rawvideo reads it."""
        return self.y.tobytes() + self.u.tobytes() + self.v.tobytes()


def to_planes(rgb_HWC: np.ndarray) -> Planes:
    """RGB uint8 (h, w, 3), even sides, to BT.709 limited range (ITU-R BT.709-6, section 3)."""
    r, g, b = (rgb_HWC[..., i].astype(np.float32) / 255.0 for i in range(3))
    luma = 0.2126 * r + 0.7152 * g + 0.0722 * b
    chroma = ((b - luma) / 1.8556, (r - luma) / 1.5748)
    h, w = luma.shape
    quarter = [c.reshape(h // 2, 2, w // 2, 2).mean(axis=(1, 3)) for c in chroma]
    u, v = ((128 + 224 * c).round().astype(np.uint8) for c in quarter)
    return Planes((16 + 219 * luma).round().astype(np.uint8), u, v)


@lru_cache(maxsize=256)
def texture(index: int, width: int, height: int) -> Planes:
    """Haystack picture number ``index``, twice the frame's size each way: smooth clouds of colour with hard-edged
    patches, so that colours and edges alone do not betray a card."""
    rng = np.random.default_rng([7, index])
    size = (2 * width, 2 * height)
    clouds = [
        np.asarray(
            Image.fromarray(rng.integers(0, 256, (rows, rows * 16 // 9, 3), dtype=np.uint8)).resize(
                size, Image.Resampling.BICUBIC
            ),
            dtype=np.float32,
        )
        for rows in (3, 9, 36)
    ]
    mix = 0.6 * clouds[0] + 0.25 * clouds[1] + 0.15 * clouds[2]
    picture = Image.fromarray(np.clip(mix, 0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(picture)
    for _ in range(int(rng.integers(4, 12))):
        x, y = int(rng.integers(size[0])), int(rng.integers(size[1]))
        w, h = int(rng.integers(10, width // 2)), int(rng.integers(10, height // 2))
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        (pen.rectangle if rng.random() < 0.5 else pen.ellipse)((x, y, x + w, y + h), fill=colour)
    return to_planes(np.asarray(picture))


def pan(scene: Scene, frame: int, width: int, height: int) -> Planes:
    """The ``frame``-th picture of a scene: a window that drifts over its texture and turns at the borders."""
    rng = random.Random(scene.draw_seed)
    source = texture(scene.texture, width, height)
    x = _bounce(rng.randrange(width) + rng.choice((-1, 1)) * rng.randint(0, 3) * frame, width) & ~1
    y = _bounce(rng.randrange(height) + rng.choice((-1, 1)) * rng.randint(0, 2) * frame, height) & ~1
    half = np.s_[y // 2 : (y + height) // 2, x // 2 : (x + width) // 2]
    return Planes(source.y[y : y + height, x : x + width], source.u[half], source.v[half])


def _bounce(position: int, limit: int) -> int:
    position %= 2 * limit
    return position if position <= limit else 2 * limit - position


def card(spec: Card, width: int, height: int) -> Planes:
    """A card as it fills the frame: its colour, a little varied, and its shape twice in black."""
    rng = random.Random(spec.draw_seed)
    shade = tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in CARD_RGB[spec.colour])
    picture = Image.new("RGB", (width, height), shade)
    if spec.shape is not None:
        radius = height * rng.uniform(0.35, 0.40)
        dx, dy = width * rng.uniform(-0.02, 0.02), height * rng.uniform(-0.04, 0.04)
        # Twice, side by side: a 16:9 frame cut into square cells shows the whole shape in each.
        for x in (0.25, 0.75):
            picture.paste(
                INK_RGB, mask=draw_shape(spec.shape, width, height, (x * width + dx, height / 2 + dy), radius)
            )
    return to_planes(np.asarray(picture))
