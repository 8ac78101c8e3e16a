"""The colours of all figures: a family of memories has the same one wherever it is drawn."""

import math
from collections.abc import Sequence
from itertools import cycle
from statistics import mean, stdev
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.transforms import ScaledTranslation

# Colour-blind safe, after Okabe and Ito (2008), as dark as a line on white needs it.
COLOURS = ["#0072b2", "#d55e00", "#b8860b", "#009e73", "#7a4fa3", "#cc5fa0", "#4d4d4d", "#3aa5d9"]
GREY = "#777777"
FAMILIES = {
    "delta": "#0072b2",
    "clipped delta": "#0072b2",
    "sum": "#d55e00",
    "gated sum": "#d55e00",
    "linear attention": "#d55e00",
    "gated delta": "#009e73",
    "kda": "#009e73",
    "lstm": "#cc5fa0",
    "gru": "#b8860b",
    "softmax": "#7a4fa3",
    "attention": "#7a4fa3",
    "window attention": "#7a4fa3",
    "none": "#4d4d4d",
    "no memory": "#4d4d4d",
    "fast weight memory": "#3aa5d9",
    "recurrent delta": "#3aa5d9",
}
# Of the members of a family that are in one figure, from the first on: how far its colour is moved
# to white, or (below 0) to black.
SHADES = (0.0, 0.45, -0.45, 0.25, -0.7)


def family_of(name: str) -> str | None:
    """The name in ``FAMILIES`` that a memory's name begins with, whatever its map or size; or None.

    Args:
        name: As figures have it, such as "gated_delta", "delta net", "fast weights, delta rule" or
            "lstm 512".
    """
    words = name.lower().removeprefix("fast weights, ").partition(",")[0].split()
    beginnings = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    # only whole kinds: delta_rnn is no delta
    kinds = (beginning.replace("_", " ") for beginning in beginnings)
    return next((kind for kind in kinds if kind in FAMILIES), None)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """The colour of each of the memories in a figure, in their order.

    Several of a family are shades of its colour; what is of no family gets what is left.
    """
    families = {name: family_of(name) for name in names}
    taken = {FAMILIES[family] for family in families.values() if family}
    rest = cycle([colour for colour in COLOURS if colour not in taken] or COLOURS)
    members: dict[str, int] = {}
    found: dict[str, str] = {}
    for name, family in families.items():
        base = FAMILIES[family] if family else next(rest)
        count = members.get(base, 0) if family else 0
        members[base] = count + 1
        found[name] = _shade(base, SHADES[count % len(SHADES)])
    return found


def _shade(colour: str, way: float) -> str:
    end = 1.0 if way > 0 else 0.0
    red, green, blue = (part + abs(way) * (end - part) for part in to_rgb(colour))
    return to_hex((red, green, blue))


# Inches from the axis: its numbers and its label stand between.
DISTANCE = 0.52


def legend_below(axes: Axes) -> None:
    """In two columns, as far from the axis whatever the height of the axes."""
    figure = axes.get_figure(root=True)
    if figure is None or not axes.get_legend_handles_labels()[1]:
        return
    axes.legend(
        fontsize=9,
        loc="upper center",
        bbox_to_anchor=(0.45, 0.0),
        bbox_transform=axes.transAxes + ScaledTranslation(0, -DISTANCE, figure.dpi_scale_trans),
        borderaxespad=0.0,
        ncols=2,
        frameon=False,
    )


# Between minus and plus so many standard errors lie 95 of 100 draws of Student's distribution, for
# 1 degree of freedom, 2 and so on; and of a normal one.
STUDENT = 12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262


NORMAL = 1.960


class Interval(NamedTuple):
    """A mean, and how far from it the 95 % interval goes."""

    mean: float
    margin: float


def interval(values: Sequence[float], error: float) -> Interval:
    """The mean over seeds, by Student's distribution.

    Each seed has its own model and its own test: what varies between seeds holds both.

    Args:
        values: Of each seed.
        error: The standard error of one value by its own test, for a single seed: the interval
            then is of this model alone.
    """
    count = len(values)
    if count == 1:
        return Interval(values[0], NORMAL * error)
    # the expansion of Student's quantile in the inverse of the degrees of freedom
    quantile = STUDENT[count - 2] if count - 2 < len(STUDENT) else NORMAL + 2.4 / (count - 1)
    return Interval(mean(values), quantile * stdev(values) / math.sqrt(count))
