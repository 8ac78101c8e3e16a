"""The recall strip: below a picture, the contribution of each past step to the present read."""

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Color: TypeAlias = tuple[int, int, int]
# The colours of the page of `fwrl inspect`; the colour-blind tell blue and orange apart too.
PAPER, FIELD, LINE = (251, 250, 248), (239, 238, 234), (205, 204, 199)
INK, FAINT = (29, 35, 43), (93, 102, 114)
FOR, AGAINST, NOW = (11, 79, 156), (196, 78, 0), (179, 0, 107)

# A strip is laid out for a picture of this width, and enlarged for wider ones.
WIDTH, LARGEST_SCALE = 320, 2.0
# Drawn so many times larger and then shrunk: bars can be narrower than a pixel.
SMOOTH = 3
# In units of the layout.
MARGIN, TOP, TEXT_SIZE, TEXT_HEIGHT = 10.0, 4.0, 11.0, 18.0
BAR_HEIGHT, AXIS_HEIGHT, WIDEST_BAR = 34.0, 21.0, 16.0
# Distance between two numbers of the axis, at least.
TICK_ROOM = 30.0
# Shares below this are not put into words.
SMALL = 0.005


class Band(NamedTuple):
    """The shares of past steps in what one memory read at one time step."""

    name: str
    share: Float[np.ndarray, " S"]
    """Shares of the steps up to this one, the newest last."""
    older: float
    """The share of all steps before these, and of the initial weights."""


class Shown(NamedTuple):
    """The content of a strip at one time step."""

    time: int
    first: int
    last: int
    """The first and the last step of the axis."""
    facts: Sequence[str]
    bands: Sequence[Band]


def with_strip(frame: NDArray[np.uint8], shown: Shown) -> NDArray[np.uint8]:
    """The picture ``[H W 3]``, as it is, with the strip below; a narrow one gets borders."""
    height, width = frame.shape[:2]
    strip = _draw(max(width, WIDTH), shown)
    left = (strip.shape[1] - width) // 2
    above = np.full((height, strip.shape[1], 3), PAPER, np.uint8)
    above[:, left : left + width] = frame
    return np.concatenate([above, strip])


class _Pen:
    """Draws a strip in units of the layout, y downwards."""

    def __init__(self, width: int, height: float) -> None:
        self._scale = min(width / WIDTH, LARGEST_SCALE)
        self.width = width / self._scale
        # videos need even sides
        self._size = (width, 2 * round(height * self._scale / 2))
        large = (SMOOTH * self._size[0], SMOOTH * self._size[1])
        self._image = Image.new("RGB", large, PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def box(self, left: float, top: float, right: float, bottom: float, color: Color) -> None:
        """A rectangle."""
        factor = SMOOTH * self._scale
        x, y, end_x, end_y = (round(factor * side) for side in (left, top, right, bottom))
        # Pillow counts the last pixel in
        self._draw.rectangle((x, y, max(x, end_x - 1), max(y, end_y - 1)), color)

    def point_up(self, x: float, y: float, color: Color) -> None:
        """A small triangle whose upper corner is at (x, y)."""
        factor = SMOOTH * self._scale
        corners = [(x, y), (x - 3.5, y + 5), (x + 3.5, y + 5)]
        self._draw.polygon([(factor * a, factor * b) for a, b in corners], color)

    def text(self, x: float, y: float, text: str, color: Color, anchor: str = "lm") -> None:
        """One line of text; the anchor is one of Pillow's."""
        factor = SMOOTH * self._scale
        self._draw.text((factor * x, factor * y), text, color, self._font(), anchor=anchor)

    def length(self, text: str) -> float:
        """The length of a line of text."""
        return self._draw.textlength(text, self._font()) / (SMOOTH * self._scale)

    def shortened(self, text: str, room: float) -> str:
        """As much of a line of text as fits."""
        kept = text
        while len(kept) > 1 and self.length(kept) > room:
            kept = f"{kept[:-2]}…"
        return kept

    def pixels(self) -> NDArray[np.uint8]:
        """The strip as an array."""
        return np.asarray(self._image.reduce(SMOOTH))

    def _font(self) -> Any:
        return _font(round(SMOOTH * self._scale * TEXT_SIZE))


@cache
def _font(size: int) -> Any:
    return ImageFont.load_default(size)


class _Axis(NamedTuple):
    """The positions of the steps."""

    first: int
    steps: int
    pitch: float

    def left(self, step: int) -> float:
        """The left side of a step's bar."""
        return MARGIN + self.pitch * (step - self.first)


def _draw(width: int, shown: Shown) -> NDArray[np.uint8]:
    height = TOP + TEXT_HEIGHT + len(shown.bands) * (TEXT_HEIGHT + BAR_HEIGHT) + AXIS_HEIGHT
    pen, count = _Pen(width, height), shown.last - shown.first + 1
    room = pen.width - 2 * MARGIN
    axis = _Axis(shown.first, count, min(WIDEST_BAR, room / count))
    pen.box(0.0, 0.0, pen.width, 1.0, LINE)
    column = room / len(shown.facts)
    for number, fact in enumerate(shown.facts):
        text = pen.shortened(fact, column - 4)
        pen.text(MARGIN + number * column, TOP + TEXT_HEIGHT / 2, text, INK)
    top = TOP + TEXT_HEIGHT
    for band in shown.bands:
        _draw_band(pen, axis, top, shown.time, band)
        top += TEXT_HEIGHT + BAR_HEIGHT
    _draw_axis(pen, axis, top, shown.time)
    return pen.pixels()


def _draw_band(pen: _Pen, axis: _Axis, top: float, time: int, band: Band) -> None:
    middle, ceiling = top + TEXT_HEIGHT / 2 + 1, top + TEXT_HEIGHT
    pen.text(MARGIN, middle, in_words(time, band), INK)
    if abs(band.older) >= SMALL:
        pen.text(pen.width - MARGIN, middle, f"older {_percent(band.older)}", FAINT, "rm")
    floor = ceiling + BAR_HEIGHT
    pen.box(MARGIN, ceiling, axis.left(time + 1), floor, FIELD)
    gap = min(1.0, axis.pitch / 5)
    for step in range(axis.first, time + 1):
        share = float(band.share[step - time - 1])
        high, left = min(1.0, abs(share)) * BAR_HEIGHT, axis.left(step)
        if high > 0:
            color = FOR if share > 0 else AGAINST
            pen.box(left, floor - high, left + axis.pitch - gap, floor, color)
        if abs(share) > 1:
            # a gap: the bar would not fit
            pen.box(left, ceiling + 2, left + axis.pitch - gap, ceiling + 3, FIELD)
    pen.box(MARGIN, floor, axis.left(axis.first + axis.steps), floor + 0.5, LINE)


def _draw_axis(pen: _Pen, axis: _Axis, top: float, time: int) -> None:
    """The numbers of the steps, and a mark at the present one."""
    now = axis.left(time) + axis.pitch / 2
    pen.point_up(now, top + 1, NOW)
    y = top + 12
    half = pen.length("now") / 2
    label = min(max(now, MARGIN + half), pen.width - MARGIN - half)
    pen.text(label, y, "now", NOW, "mm")
    for step in ticks(axis.first, axis.steps, axis.pitch):
        x = axis.left(step) + axis.pitch / 2
        around = half + pen.length(str(step)) / 2 + 4
        if abs(x - label) >= around:
            pen.text(x, y, str(step), FAINT, "mm")


def ticks(first: int, count: int, pitch: float) -> list[int]:
    """The steps with a number on the axis: round ones, as many as fit."""
    round_ones = (factor * power for power in (1, 10, 100, 1000) for factor in (1, 2, 5))
    distance = next((each for each in round_ones if each * pitch >= TICK_ROOM), 10_000)
    return list(range(-(-first // distance) * distance, first + count, distance))


def in_words(time: int, band: Band) -> str:
    """The step that contributes most, in words."""
    ago = int(np.abs(band.share[::-1]).argmax())
    share = float(band.share[-1 - ago])
    if share == 0 and band.older == 0:
        return f"{band.name}: nothing is read"
    when = "this step" if ago == 0 else f"step {time - ago}, {ago} ago"
    return f"{band.name}: {_percent(share)} from {when}"


def _percent(share: float) -> str:
    # Pillow's own font has no minus sign
    return f"{100 * share:.0f} %"
