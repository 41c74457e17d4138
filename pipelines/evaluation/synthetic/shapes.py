"""The shapes on the cards, as strokes on a square canvas of half-side 1 around its middle."""

from __future__ import annotations

from collections.abc import Callable
from math import cos, pi, sin

from PIL import Image, ImageDraw

Point = tuple[float, float]
SHAPES = (
    "circle", "square", "triangle", "cross", "star", "ring", "bars", "heart",
    "diamond", "arrow", "moon", "stripes", "hourglass", "checkerboard", "frame", "ladder",
)  # fmt: skip


class Canvas:
    """A mask to draw on in units of the shape's half-side, y downwards."""

    def __init__(self, width: int, height: int, centre: Point, radius: float) -> None:
        self.mask = Image.new("L", (width, height), 0)
        self._pen = ImageDraw.Draw(self.mask)
        self._centre, self._radius = centre, radius

    def polygon(self, *points: Point) -> None:
        self._pen.polygon([self._pixel(point) for point in points], fill=255)

    def box(self, left: float, top: float, right: float, bottom: float, *, fill: int = 255) -> None:
        self._pen.rectangle((*self._pixel((left, top)), *self._pixel((right, bottom))), fill=fill)

    def disc(self, x: float, y: float, radius: float, *, fill: int = 255) -> None:
        corners = (*self._pixel((x - radius, y - radius)), *self._pixel((x + radius, y + radius)))
        self._pen.ellipse(corners, fill=fill)

    def _pixel(self, point: Point) -> Point:
        return self._centre[0] + point[0] * self._radius, self._centre[1] + point[1] * self._radius


def draw_shape(name: str, width: int, height: int, centre: Point, radius: float) -> Image.Image:
    """Mask (mode "L", ``width`` x ``height`` pixels) of a shape of half-side ``radius`` pixels around ``centre``.

    Raises ValueError for a shape that is not in ``SHAPES``.
    """
    if name not in _STROKES:
        raise ValueError(f"there is no shape {name!r}; there are {', '.join(SHAPES)}.")
    canvas = Canvas(width, height, centre, radius)
    _STROKES[name](canvas)
    return canvas.mask


def _ring(canvas: Canvas) -> None:
    canvas.disc(0, 0, 1)
    canvas.disc(0, 0, 0.55, fill=0)


def _frame(canvas: Canvas) -> None:
    canvas.box(-1, -1, 1, 1)
    canvas.box(-0.55, -0.55, 0.55, 0.55, fill=0)


def _cross(canvas: Canvas) -> None:
    canvas.box(-0.3, -1, 0.3, 1)
    canvas.box(-1, -0.3, 1, 0.3)


def _star(canvas: Canvas) -> None:
    canvas.polygon(*[(r * sin(i * pi / 5), -r * cos(i * pi / 5)) for i, r in enumerate([1.0, 0.4] * 5)])


def _bars(canvas: Canvas) -> None:
    for top in (-1.0, -0.2, 0.6):
        canvas.box(-1, top, 1, top + 0.4)


def _stripes(canvas: Canvas) -> None:
    for left in (-1.0, -0.2, 0.6):
        canvas.box(left, -1, left + 0.4, 1)


def _moon(canvas: Canvas) -> None:
    canvas.disc(0, 0, 1)
    canvas.disc(0.5, 0, 0.85, fill=0)


def _heart(canvas: Canvas) -> None:
    canvas.disc(-0.45, -0.4, 0.5)
    canvas.disc(0.45, -0.4, 0.5)
    canvas.polygon((-0.9, -0.2), (0.9, -0.2), (0, 1))


def _checkerboard(canvas: Canvas) -> None:
    canvas.box(-1, -1, 0, 0)
    canvas.box(0, 0, 1, 1)


def _ladder(canvas: Canvas) -> None:
    canvas.box(-0.8, -1, -0.5, 1)
    canvas.box(0.5, -1, 0.8, 1)
    for top in (-0.7, -0.1, 0.5):
        canvas.box(-0.8, top, 0.8, top + 0.22)


_STROKES: dict[str, Callable[[Canvas], None]] = {
    "circle": lambda canvas: canvas.disc(0, 0, 1),
    "square": lambda canvas: canvas.box(-0.9, -0.9, 0.9, 0.9),
    "triangle": lambda canvas: canvas.polygon((0, -1), (1, 0.9), (-1, 0.9)),
    "diamond": lambda canvas: canvas.polygon((0, -1), (0.8, 0), (0, 1), (-0.8, 0)),
    "arrow": lambda canvas: canvas.polygon((0, -1), (0.8, 0), (0.3, 0), (0.3, 1), (-0.3, 1), (-0.3, 0), (-0.8, 0)),
    "hourglass": lambda canvas: canvas.polygon((-0.9, -1), (0.9, -1), (-0.9, 1), (0.9, 1)),
    "ring": _ring,
    "frame": _frame,
    "cross": _cross,
    "star": _star,
    "bars": _bars,
    "stripes": _stripes,
    "moon": _moon,
    "heart": _heart,
    "checkerboard": _checkerboard,
    "ladder": _ladder,
}
