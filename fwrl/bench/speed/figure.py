"""The figure of ``fwrl bench speed``: a bar for each ratio, from 1 to it, and the spread on top."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row
from fwrl.bench.speed.peers import CELL_LOOP

TITLES = {
    "training": "Training, against",
    "update": "An update, per step, against",
    "cores": f"Every core, forward and backward, against an {CELL_LOOP} with starts",
    "layer": "The delta layer, forward and backward, against",
    "length": "The delta layer, per time, against",
    "acting": "Acting, one step, against",
    "kernels": "Scans, forward and backward, by kernel, against",
    "memory": "Memory kept for the backward pass, against",
    "throughput": "Useful operations per second, against",
    "atari": "Share of a training on Atari taken by",
}
FASTER, SLOWER = "#0072b2", "#d55e00"
# Inches: of a bar, of what stands around a group, and of a column.
BAR, AROUND, COLUMN = 0.17, 0.75, 7.6


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """The groups that there are, in two columns of about equal height.

    Args:
        rows: Of the table.
        path: Of the PNG file.
    """
    groups = {group: _shown([row for row in rows if row["group"] == group]) for group in TITLES}
    groups = {group: found for group, found in groups.items() if found}
    columns = [column for column in _columns(groups) if column]
    tallest = max(sum(_height(groups[group]) for group in column) for column in columns)
    figure = plt.figure(figsize=(COLUMN * len(columns), tallest + 0.5))
    for place, column in enumerate(columns):
        top = 1.0
        for group in column:
            height = _height(groups[group])
            bottom = top - height / tallest
            inside = len(groups[group]) * BAR / tallest
            left = (place + 0.5) / len(columns)
            axes = figure.add_axes((left, bottom + 0.35 / tallest, 0.46 / len(columns), inside))
            _bars(axes, groups[group], TITLES[group])
            top = bottom
    figure.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(figure)


def _shown(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """Rows and their labels; of the cores only one peer, else they would hide all others."""
    if rows and rows[0]["group"] == "cores":
        return [(str(row["name"]), row) for row in rows if row["peer"] == CELL_LOOP]
    names = {row["name"] for row in rows}
    several = len({row["threads"] for row in rows}) > 1
    found: list[tuple[str, Row]] = []
    for row in sorted(rows, key=lambda row: str(row["peer"])):
        words = [str(row["peer"]), str(row["shape"])]
        if len(names) > 1:
            words.insert(0, str(row["name"]))
        if several:
            words.append(f"{row['threads']} thread{'s' if row['threads'] != 1 else ''}")
        found.append((", ".join(words), row))
    return found


def _columns(groups: dict[str, list[tuple[str, Row]]]) -> tuple[list[str], list[str]]:
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


def _height(rows: Sequence[tuple[str, Row]]) -> float:
    return len(rows) * BAR + AROUND


def _bars(axes: Axes, rows: Sequence[tuple[str, Row]], title: str) -> None:
    for place, (_, row) in enumerate(rows):
        ratio, low, high = (float(row[column]) for column in ("ratio", "low", "high"))
        colour = FASTER if ratio >= 1 else SLOWER
        axes.barh(place, ratio - 1, left=1.0, height=0.72, color=colour)
        axes.plot([low, high], [place, place], color="black", linewidth=1)
        end, align = (max(high, 1.0), "left") if ratio >= 1 else (min(low, 1.0), "right")
        shift = 1.04 if ratio >= 1 else 1 / 1.04
        axes.text(end * shift, place, f"{ratio:.2g}", va="center", ha=align, fontsize=6.5)
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    numbers = [float(row[column]) for _, row in rows for column in ("low", "high")]
    axes.set_xlim(min(0.5, min(numbers) / 1.5), max(2.0, max(numbers) * 1.5))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.set_yticks(range(len(rows)), [label for label, _ in rows], fontsize=7)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=7)
    axes.set_title(title, loc="left", fontsize=9, x=-0.6)
    axes.grid(axis="x", alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
