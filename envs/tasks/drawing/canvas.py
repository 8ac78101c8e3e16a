"""A canvas to draw pictures of tasks on: few colours, few shapes, smooth edges."""

from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT = 320, 240
# pictures are drawn larger and then shrunk, for smooth edges
SCALE = 4

Picture: TypeAlias = UInt8[np.ndarray, "240 320 3"]
Color: TypeAlias = tuple[int, int, int]
Real: TypeAlias = int | float
Point: TypeAlias = tuple[Real, Real] | Float[np.ndarray, " 2"]
Points: TypeAlias = Float[np.ndarray, "points 2"] | Sequence[Point]

PAPER, WHITE = (250, 249, 246), (255, 255, 255)
INK, GRAY, FAINT = (38, 43, 52), (112, 118, 127), (212, 213, 211)
# highlights, right answers, wrong answers
BLUE, GREEN, RED = (36, 98, 200), (20, 138, 80), (206, 44, 50)
PALE_BLUE, PALE_GREEN = (186, 206, 240), (212, 238, 222)

MARGIN = 20
TITLE_Y, NOTE_Y, CLOCK_Y = 24, 204, 229
CLOCK_HEIGHT = 4


class Canvas:
    """A picture to draw on, with a title and a bar that shows the time left.

    Coordinates are pixels of the finished picture, y downwards; later strokes cover earlier ones.
    """

    def __init__(self, title: str, time_left: Real) -> None:
        """An empty canvas.

        Args:
            title: The agent's task.
            time_left: Fraction of the episode's time that is left, from 1 to 0.
        """
        self._image = Image.new("RGB", (SCALE * WIDTH, SCALE * HEIGHT), PAPER)
        self._draw = ImageDraw.Draw(self._image)
        self.text((WIDTH / 2, TITLE_Y), title, 15)
        length = WIDTH - 2 * MARGIN
        self.box((MARGIN, CLOCK_Y), (length, CLOCK_HEIGHT), FAINT)
        if time_left > 0:
            self.box((MARGIN, CLOCK_Y), (length * time_left, CLOCK_HEIGHT), BLUE)

    def box(
        self, corner: Point, size: Point, fill: Color, edge: Color | None = None, radius: Real = 0
    ) -> None:
        """A rectangle, given its upper left corner, with corners rounded by ``radius``."""
        left, top = corner
        width, height = size
        # Pillow includes the last pixel
        right, bottom = SCALE * (left + width) - 1, SCALE * (top + height) - 1
        frame = (SCALE * left, SCALE * top, max(right, SCALE * left), bottom)
        self._draw.rounded_rectangle(frame, SCALE * radius, fill, edge, 2 * SCALE)

    def disc(self, middle: Point, radius: Real, fill: Color, edge: Color | None = None) -> None:
        """A disc, with a thick edge if it has a colour."""
        x, y = middle
        self._draw.circle((SCALE * x, SCALE * y), SCALE * radius, fill, edge, 3 * SCALE)

    def line(self, points: Points, color: Color, width: Real = 2) -> None:
        """A line through ``points``."""
        self._draw.line(_scaled(points), color, round(SCALE * width), joint="curve")

    def polygon(self, points: Points, color: Color) -> None:
        """The area inside ``points``."""
        self._draw.polygon(_scaled(points), color)

    def arrow(self, tail: Point, head: Point, color: Color, width: Real = 2) -> None:
        """An arrow whose point is at ``head``."""
        start, end = np.asarray(tail), np.asarray(head)
        along = (end - start) / np.hypot(*(end - start))
        across = np.array([-along[1], along[0]]) * (2 + width)
        base = end - (4 + 2 * width) * along
        self.line(np.stack([start, base]), color, width)
        self.polygon(np.stack([end, base + across, base - across]), color)

    def text(self, middle: Point, text: str, size: int, color: Color = INK) -> None:
        """One line of text around its middle."""
        x, y = middle
        self._draw.text((SCALE * x, SCALE * y), text, color, _font(SCALE * size), anchor="mm")

    def symbol(self, middle: Point, name: str, radius: Real) -> None:
        """The drawing ``name`` of ``SHAPES``, or the name as text; a question mark is blue."""
        if name not in SHAPES:
            self.text(middle, name, round(1.7 * radius), BLUE if name == "?" else INK)
            return
        color, shapes = SHAPES[name]
        for shape in shapes:
            self.polygon(shape * radius + np.array(middle), color)

    def mark(self, middle: Point, right: bool) -> None:
        """A green tick or a red cross."""
        x, y = middle
        if right:
            self.line([(x - 8, y), (x - 2, y + 7), (x + 8, y - 8)], GREEN, 3)
        else:
            self.line([(x - 7, y - 7), (x + 7, y + 7)], RED, 3)
            self.line([(x - 7, y + 7), (x + 7, y - 7)], RED, 3)

    def pixels(self) -> Picture:
        """The finished picture."""
        return np.array(self._image.reduce(SCALE))


def _scaled(points: Points) -> list[float]:
    return (SCALE * np.asarray(points, np.float64)).ravel().tolist()


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


ANGLES = np.linspace(0, 2 * np.pi, 48)


def _round(x: Real, y: Real, radius: Real) -> Float[np.ndarray, "points 2"]:
    return np.stack([x + radius * np.cos(ANGLES), y + radius * np.sin(ANGLES)], axis=1)


def _heart() -> Float[np.ndarray, "points 2"]:
    one, two, three, four = (np.cos(multiple * ANGLES) for multiple in (1, 2, 3, 4))
    height = 13 * one - 5 * two - 2 * three - four
    return np.stack([16 * np.sin(ANGLES) ** 3, 2.5 - height], axis=1) / 16


_STEM = np.array([(0.0, -0.2), (0.4, 1.0), (-0.4, 1.0)])
_DIAMOND = np.array([(0.0, -1.05), (0.78, 0.0), (0.0, 1.05), (-0.78, 0.0)])
_TRIANGLE = np.array([(0.0, -0.85), (0.9, 0.75), (-0.9, 0.75)])

# colour and polygons of each drawing, about 2 wide and high around (0, 0)
SHAPES = {
    "spades": (INK, (_heart() * (0.9, -0.8) - (0, 0.2), _STEM)),
    "diamonds": (RED, (_DIAMOND,)),
    "clubs": (
        INK,
        (_round(0, -0.55, 0.44), _round(-0.5, 0.2, 0.44), _round(0.5, 0.2, 0.44), _STEM),
    ),
    "hearts": (RED, (_heart() * 0.95,)),
    "black": (INK, (_round(0, 0, 0.9),)),
    "red": (RED, (_round(0, 0, 0.9),)),
    "higher": (INK, (_TRIANGLE,)),
    "lower": (INK, (-_TRIANGLE,)),
}
