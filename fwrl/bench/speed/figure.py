"""The figure of ``fwrl bench speed``: a bar for each ratio, from 1 to it, and the spread on top."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from fwrl.bench.benchmark import Row
from fwrl.bench.speed.peers import CELL_LOOP

TITLES = {
    "training": "Training, against",
    "update": "An update, time per step, against",
    "cores": "Every core, forward and backward, against",
    "layer": "The delta layer, forward and backward, against",
    "length": "The delta layer, cost of a time, against",
    "acting": "Acting, one step, against",
    "kernels": "Scans, forward and backward, by kernel, against",
    "memory": "Memory kept for the backward pass, against",
    "throughput": "Useful operations per second, against",
    "atari": "Share of a training on Atari taken by",
}
EXPLANATION = (
    "Times as fast as the peer (times less memory): right of 1, blue, ours is faster; left of 1,\n"
    "orange, the peer is. Bars are medians of all rounds; lines go from the lowest to the highest."
)
FASTER, SLOWER = "#0072b2", "#d55e00"
# Inches: of a bar, of what stands around a group, and of a column.
BAR, AROUND, COLUMN = 0.17, 0.85, 7.6


class Panel(NamedTuple):
    """One group."""

    title: str
    labels: list[str]
    rows: Sequence[Row]


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """The groups that there are, in two columns of about equal height.

    Args:
        rows: Of the table.
        path: Of the PNG file.
    """
    of_group = {group: [row for row in rows if row["group"] == group] for group in TITLES}
    groups = {group: _shown(group, found) for group, found in of_group.items() if found}
    columns = [column for column in _columns(groups) if column]
    tallest = max(sum(_height(groups[group]) for group in column) for column in columns)
    figure = plt.figure(figsize=(COLUMN * len(columns), tallest + 0.5))
    for place, column in enumerate(columns):
        top = 1.0
        for group in column:
            height = _height(groups[group])
            bottom = top - height / tallest
            inside = len(groups[group].rows) * BAR / tallest
            left = (place + 0.5) / len(columns)
            axes = figure.add_axes((left, bottom + 0.35 / tallest, 0.46 / len(columns), inside))
            _bars(axes, groups[group])
            top = bottom
    figure.text(0.0, 1.02, EXPLANATION, fontsize=8.5, va="bottom")
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def _shown(group: str, rows: Sequence[Row]) -> Panel:
    """What is the same in all rows stands in the title, the rest in the labels."""
    if group == "cores":
        # one peer; all of them would hide what the other groups say
        rows = [row for row in rows if row["peer"] == CELL_LOOP]
    rows = sorted(rows, key=lambda row: str(row["peer"]))
    differing = [
        column
        for column in ("name", "peer", "shape", "threads", "device")
        if len({row[column] for row in rows}) > 1
    ]
    labels = [", ".join(_word(row, column) for column in differing) for row in rows]
    same = [
        str(rows[0][column])
        for column in ("name", "shape")
        if column not in differing and (column, group) != ("name", "atari")
    ]
    title = TITLES[group] if "peer" in differing else f"{TITLES[group]} {rows[0]['peer']}"
    return Panel("\n".join(filter(None, [title, "; ".join(same)])), labels, rows)


def _word(row: Row, column: str) -> str:
    if column == "threads":
        return "1 thread" if row[column] == 1 else f"{row[column]} threads"
    return str(row[column])


def _columns(groups: dict[str, Panel]) -> tuple[list[str], list[str]]:
    """The tallest first, each into the column that is shorter then; in the table's order."""
    columns: tuple[list[str], list[str]] = ([], [])
    heights = [0.0, 0.0]
    for group in sorted(groups, key=lambda group: -_height(groups[group])):
        shorter = heights.index(min(heights))
        columns[shorter].append(group)
        heights[shorter] += _height(groups[group])
    for column in columns:
        column.sort(key=list(TITLES).index)
    return columns


def _height(panel: Panel) -> float:
    return len(panel.rows) * BAR + AROUND


def _bars(axes: Axes, panel: Panel) -> None:
    for place, row in enumerate(panel.rows):
        ratio, low, high = (float(row[column]) for column in ("ratio", "low", "high"))
        colour = FASTER if ratio >= 1 else SLOWER
        axes.barh(place, ratio - 1, left=1.0, height=0.72, color=colour)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        end, align = (max(high, 1.0), "left") if ratio >= 1 else (min(low, 1.0), "right")
        shift = 1.04 if ratio >= 1 else 1 / 1.04
        axes.text(end * shift, place, f"{ratio:.2g}", va="center", ha=align, fontsize=6.5)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    numbers = [float(row[column]) for row in panel.rows for column in ("low", "high")]
    # room for the numbers beside the bars
    least, most = min(0.8, *numbers), max(2.1, *numbers)
    room = (most / least) ** 0.15
    axes.set_xlim(least / room, most * room)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_yticks(range(len(panel.rows)), panel.labels, fontsize=7)
    axes.set_ylim(len(panel.rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(panel.title, loc="left", fontsize=8.5, x=-0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
