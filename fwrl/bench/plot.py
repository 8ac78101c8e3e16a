"""All figures: their style, one colour for each family of memories, and what they are made of."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from io import BytesIO
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.ticker import EngFormatter, Locator, LogLocator, NullLocator
from matplotlib.transforms import ScaledTranslation

from fwrl.bench.benchmark import Row
from fwrl.config import ConfigError, OneLineError
from fwrl.files.plain_files import replace_plain

# Colour-blind safe, after Okabe and Ito (2008), as dark as a line on white needs it.
COLOURS = ["#0072b2", "#d55e00", "#b8860b", "#009e73", "#7a4fa3", "#cc5fa0", "#4d4d4d", "#3aa5d9"]
GREY = "#777777"
FAMILIES = {
    "delta": "#0072b2",
    "clipped delta": "#0072b2",
    "efla": "#0072b2",
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
    "windowed attention": "#7a4fa3",
    "none": "#4d4d4d",
    "no memory": "#4d4d4d",
    "fast weight memory": "#3aa5d9",
    "recurrent delta": "#3aa5d9",
}
# How far the colour of the first, second, ... member of a family in one figure is moved to white,
# or (below 0) to black.
SHADES = (0.0, 0.45, -0.45, 0.25, -0.7)


def family_of(name: str) -> str | None:
    """The name in ``FAMILIES`` that a memory's name begins with, whatever its map or size; or None.

    Args:
        name: A name as in figures: "gated_delta", "delta net", "fast weights, delta rule" or
            "lstm 512".
    """
    words = name.lower().removeprefix("fast weights, ").partition(",")[0].split()
    beginnings = (" ".join(words[:count]) for count in range(len(words), 0, -1))
    # only whole kinds: delta_rnn is no delta
    kinds = (beginning.replace("_", " ") for beginning in beginnings)
    return next((kind for kind in kinds if kind in FAMILIES), None)


def colours_of(names: Sequence[str]) -> dict[str, str]:
    """The colour of each of the memories in a figure, in their order.

    Several of a family are shades of its colour; those without a family share the other colours.
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


Number = int | float
# The names of methods that several benchmarks have, in words.
LABELS = {
    "fast_weight_memory": "fast weight memory",
    "infinite_former_sticky": "infinite-former, sticky",
    "infinite_former": "infinite-former",
    "window_attention": "windowed attention",
    "lstm": "LSTM",
    "sum": "fast weights, sum",
    "delta": "fast weights, delta",
    "gated_delta": "fast weights, gated delta",
    "none": "no memory",
}
STYLE: Any = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "figure.titlesize": 11,
    "grid.alpha": 0.25,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "lines.markersize": 5,
    "lines.linewidth": 1.6,
    "savefig.dpi": 150,
}
CHANCE: Mapping[str, Any] = {"color": "black", "linestyle": ":", "linewidth": 1.4}
MARKERS = "osD^vPX<"
BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}
# Inches between an axis and the legend below it, which its numbers and its label need.
DISTANCE = 0.52


@contextmanager
def figure(path: Path, width: Number, height: Number, title: str = "") -> Generator[Figure]:
    """A figure in the common style, in inches, which is saved as a PNG file at the end."""
    with mpl.rc_context(STYLE):
        drawn = Figure((width, height), layout="constrained")
        yield drawn
        if title:
            drawn.suptitle(title, x=0.01, ha="left")
        _save(drawn, path)


def write_below(path: Path, text: str) -> None:
    """Add a line of words under a saved figure."""
    picture = imread(path)
    height, width, _ = picture.shape
    with mpl.rc_context(STYLE):
        dots = float(mpl.rcParams["savefig.dpi"])
        line = round(0.3 * dots)
        drawn = Figure((width / dots, (height + line) / dots), dots)
        drawn.figimage(picture, 0, line)
        drawn.text(0.5, 0.4 * line / (height + line), text, ha="center", va="center", color="red")
        _save(drawn, path)


def _save(drawn: Figure, path: Path) -> None:
    content = BytesIO()
    drawn.savefig(content, format="png")
    replace_plain(path, content.getvalue())


@contextmanager
def rows_of(table: Path) -> Generator[None]:
    """A block that draws the rows of a table, which may be a stranger's.

    Raises:
        ConfigError: If columns are missing, or hold texts or numbers that cannot be drawn.
    """
    try:
        yield
    except OneLineError:
        raise
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        raise ConfigError(
            f"{table}: cannot be drawn, one of its rows is not of these results "
            f"({type(error).__name__}: {error}); take it out, or start anew with --fresh"
        ) from None


def by(rows: Sequence[Row], column: str) -> dict[Any, list[Row]]:
    """The rows by their value in a column, in order of appearance, without those of no value."""
    found: dict[Any, list[Row]] = {}
    for row in rows:
        if column in row:
            found.setdefault(row[column], []).append(row)
    return found


def numbers(rows: Sequence[Row], column: str) -> list[float]:
    """The numbers in a column, without empty cells."""
    return [float(row[column]) for row in rows if column in row]


def seeds(axes: Axes, rows: Sequence[Row], x: str, y: str, colour: str, label: str) -> None:
    """A line for each seed, by the names of two columns; rows without a ``y`` are left out."""
    for seed in by([row for row in rows if y in row], "seed").values():
        curve = sorted(seed, key=lambda row: row[x])
        axes.plot(numbers(curve, x), numbers(curve, y), color=colour, label=label)


def curve(
    axes: Axes,
    values: Mapping[Any, Sequence[float]],
    colour: str,
    label: str | None = None,
    line: str = "-",
    marker: str = "",
) -> None:
    """A line through the means over seeds, and their ranges: a band, or bars at its markers.

    Args:
        axes: The panel.
        values: The values of the seeds, by their place on the horizontal axis.
        colour: The colour of line and ranges.
        label: The entry in the legend.
        line: The style of the line.
        marker: The mark at each place; none where they are many.
    """
    places = sorted(values)
    low, high = ([extreme(values[place]) for place in places] for extreme in (min, max))
    means = [mean(values[place]) for place in places]
    axes.plot(places, means, line, color=colour, label=label, marker=marker)
    if marker:
        axes.vlines(places, low, high, color=colour, alpha=0.5, linewidth=1.2)
    else:
        axes.fill_between(places, low, high, color=colour, alpha=0.18, linewidth=0)


def bars(
    axes: Axes, values: Mapping[str, Sequence[float]], colours: Mapping[str, str], digits: int = 3
) -> None:
    """A bar from the top down for the mean of each name, as a number too; a dot for each seed."""
    for place, (name, seeds) in enumerate(values.items()):
        middle = mean(seeds)
        axes.barh(place, middle, 0.62, color=colours[name], alpha=0.85)
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
        write_beside(axes, max(seeds), place, f"{middle:.{digits}f}")
    name_rows(axes, list(values))
    axes.grid(False, axis="y")


def interval(
    axes: Axes,
    estimate: tuple[float, float, float],
    height: Number,
    colour: str,
    marker: str = "o",
    hollow: bool = False,
) -> None:
    """A mark at a mean or median, and a line between two ends.

    Args:
        axes: The panel.
        estimate: The middle, the lower and the upper end.
        height: The place on the vertical axis.
        colour: The colour of mark and line.
        marker: The shape of the mark.
        hollow: Whether the mark is white inside: it has no interval, or another remark.
    """
    middle, low, high = estimate
    axes.plot([low, high], [height, height], color=colour, zorder=1.5)
    inside, edge = ("white", 1.5) if hollow else (colour, 1.0)
    axes.plot(middle, height, marker, color=colour, markersize=6, mfc=inside, mew=edge)


def marks(
    axes: Axes,
    x: Sequence[Number],
    y: Sequence[Number],
    marker: str,
    label: str,
    colour: str = GREY,
) -> None:
    """Hollow marks: what others have published, or another measure."""
    axes.plot(
        x, y, marker, color=colour, fillstyle="none", label=label, clip_on=False,
        markersize=10 if marker == "|" else 7, mew=1.4,
    )  # fmt: skip


def write_beside(axes: Axes, x: Number, y: Number, text: str) -> None:
    """A small text at the right of a point, on white, so that lines do not go through it."""
    axes.annotate(
        text, (x, y), (6, 0), textcoords="offset points", va="center", fontsize=9, bbox=BOX
    )


def name_rows(axes: Axes, names: Sequence[str]) -> None:
    """Names on the vertical axis, at 0, 1 and so on from the top down."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


def log_axis(axes: Axes, base: int = 10, locator: Locator | None = None) -> None:
    """A logarithmic horizontal axis with plain numbers: 1,024 instead of a power."""
    axes.set_xscale("log", base=base)
    axes.xaxis.set_major_locator(locator or LogLocator(base))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:,g}")


def steps_axis(axes: Axes) -> None:
    """Environment steps along the horizontal axis: 200 k, 1 M."""
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(EngFormatter())


def legend_below(drawn: Axes | Figure, columns: int = 2) -> None:
    """The legend under a panel, or that of all panels under the figure; each label once."""
    panels = drawn.axes if isinstance(drawn, Figure) else [drawn]
    labelled = [zip(*panel.get_legend_handles_labels(), strict=True) for panel in panels]
    named = {label: handle for panel in labelled for handle, label in panel}
    if not named:
        return
    if isinstance(drawn, Figure):
        drawn.legend(named.values(), named.keys(), loc="outside lower center", ncols=columns)
        return
    whole = drawn.get_figure(root=True)
    assert whole is not None
    # as far from the axis whatever the height of the panel
    below = drawn.transAxes + ScaledTranslation(0, -DISTANCE, whole.dpi_scale_trans)
    drawn.legend(
        named.values(), named.keys(), loc="upper center", bbox_to_anchor=(0.45, 0.0),
        bbox_transform=below, borderaxespad=0.0, ncols=columns,
    )  # fmt: skip
