"""Pictures of the suite as 4:2:0 planes: haystack textures that a camera pans over, and the cards.

Everything is drawn once with Pillow and numpy and then only cropped, so that an hour of video costs little more than
its encoding.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import lru_cache
from math import cos, pi, sin

import numpy as np
from PIL import Image, ImageDraw

from pipelines.evaluation.synthetic.plan import Card, Scene

CARD_RGB = {"red": (205, 40, 40), "green": (40, 165, 60), "blue": (45, 70, 205), "yellow": (230, 205, 40)}


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
            Image.fromarray(rng.integers(0, 256, (rows, rows * 16 // 9, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC),
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
    """A card as it fills the frame: its colour, a little varied, and its shape twice in white or black."""
    rng = random.Random(spec.draw_seed)
    shade = tuple(max(0, min(255, c + rng.randint(-14, 14))) for c in CARD_RGB[spec.colour])
    picture = Image.new("RGB", (width, height), shade)
    if spec.shape is not None:
        ink = rng.choice(((250, 250, 250), (8, 8, 8)))
        radius = height * rng.uniform(0.34, 0.40)
        dx, dy = width * rng.uniform(-0.03, 0.03), height * rng.uniform(-0.06, 0.06)
        # Twice, side by side: a 16:9 frame cut into square cells shows the whole shape in each.
        for x in (0.25, 0.75):
            picture.paste(ink, mask=draw_shape(spec.shape, width, height, (x * width + dx, height / 2 + dy), radius))
    return to_planes(np.asarray(picture))


def draw_shape(name: str, width: int, height: int, centre: tuple[float, float], radius: float) -> Image.Image:
    """Mask (mode "L") of a shape inside the square of half-side ``radius`` around ``centre``, in pixels."""
    mask = Image.new("L", (width, height), 0)
    pen = ImageDraw.Draw(mask)
    cx, cy = centre

    def box(left: float, top: float, right: float, bottom: float, fill: int = 255) -> None:
        pen.rectangle((cx + left * radius, cy + top * radius, cx + right * radius, cy + bottom * radius), fill=fill)

    def disc(x: float, y: float, r: float, fill: int = 255) -> None:
        pen.ellipse((cx + (x - r) * radius, cy + (y - r) * radius, cx + (x + r) * radius, cy + (y + r) * radius), fill=fill)

    def polygon(*points: tuple[float, float]) -> None:
        pen.polygon([(cx + x * radius, cy + y * radius) for x, y in points], fill=255)

    match name:
        case "circle":
            disc(0, 0, 1)
        case "ring":
            disc(0, 0, 1)
            disc(0, 0, 0.55, fill=0)
        case "square":
            box(-0.9, -0.9, 0.9, 0.9)
        case "frame":
            box(-1, -1, 1, 1)
            box(-0.55, -0.55, 0.55, 0.55, fill=0)
        case "triangle":
            polygon((0, -1), (1, 0.9), (-1, 0.9))
        case "diamond":
            polygon((0, -1), (0.8, 0), (0, 1), (-0.8, 0))
        case "cross":
            box(-0.3, -1, 0.3, 1)
            box(-1, -0.3, 1, 0.3)
        case "star":
            polygon(*[(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate([1.0, 0.4] * 5)])
        case "bars":
            for top in (-1.0, -0.2, 0.6):
                box(-1, top, 1, top + 0.4)
        case "stripes":
            for left in (-1.0, -0.2, 0.6):
                box(left, -1, left + 0.4, 1)
        case "arrow":
            polygon((0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0))
        case "moon":
            disc(0, 0, 1)
            disc(0.5, 0, 0.85, fill=0)
        case "heart":
            disc(-0.45, -0.4, 0.5)
            disc(0.45, -0.4, 0.5)
            polygon((-0.9, -0.2), (0.9, -0.2), (0, 1))
        case "hourglass":
            polygon((-0.9, -1), (0.9, -1), (-0.9, 1), (0.9, 1))
        case "checkerboard":
            box(-1, -1, 0, 0)
            box(0, 0, 1, 1)
        case "ladder":
            box(-0.8, -1, -0.5, 1)
            box(0.5, -1, 0.8, 1)
            for top in (-0.7, -0.1, 0.5):
                box(-0.8, top, 0.8, top + 0.22)
        case _:
            raise ValueError(f"no such shape: {name!r}")
    return mask
