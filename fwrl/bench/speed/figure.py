"""The figures of ``fwrl bench speed``: a line for each peer or core, a mark for each ratio.

What is not in them, such as the group ``layer``, has too many rows for a figure.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.speed.peers import CELL_LOOP

RATIO = ("ratio", "low", "high")
BY_PROCESSOR = ("processor_ratio", "processor_low", "processor_high")
SECONDS = ("processor_total", "processor_total", "processor_total")
# Inches: the height of a line, of what is around a panel and of an entry below it, and the width.
LINE, AROUND, ENTRY, WIDTH = 0.3, 1.05, 0.22, 9.0
SHAPES = (
    (r"\bB 1\b", "1 stream"),
    (r"\bB (\d+)", r"\1 streams"),
    (r"\bT (\d+)", r"\1 steps"),
    (r"(\d+) x (\d+)", r"\1 heads of \2"),
)


class Group(NamedTuple):
    """The look of a group."""

    title: str
    # the word that its lines differ in; all other words in which its rows differ make the marks
    line: str
    axis: str = "times as fast as the peer"
    # from 0 to 1, not against a peer
    share: bool = False
    # the columns of the middle, the lower and the upper end
    columns: tuple[str, str, str] = RATIO


Words = dict[str, str]


def _words(row: Row) -> Words:
    """A row in words, by what they say; the names of some groups hold a rule and a kernel."""
    shape, peer = str(row["shape"]), str(row["peer"])
    for pattern, words in SHAPES:
        shape, peer = re.sub(pattern, words, shape), re.sub(pattern, words, peer)
    rule, _, kernel = str(row["name"]).partition(", ")
    threads = "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"
    return {
        "name": str(row["name"]), "rule": rule, "kernel": f"{kernel} kernel", "peer": peer,
        "shape": shape, "threads": threads, "device": str(row["device"]),
    }  # fmt: skip


GROUPS = {
    "training": Group(
        "Training one layer", "peer", "times as fast in processor time", columns=BY_PROCESSOR
    ),
    "solve": Group("Training until a task is solved", "peer", "processor seconds", columns=SECONDS),
    "cores": Group("Every core, forward and backward", "name"),
    "kernels": Group("Scans, forward and backward", "rule"),
    "memory": Group(
        "Kept for the backward pass of a delta layer", "kernel", "times less memory than the peer"
    ),
    "update": Group("An update by the length of its rollouts", "shape"),
    "length": Group("The delta layer by the length of its sequences", "shape"),
    "acting": Group("Acting, one step without gradients", "shape"),
    "throughput": Group(
        "Operations per second of the delta rule's scan",
        "kernel",
        "share of a matrix product's",
        True,
    ),
    "atari": Group("A training on Pong", "peer", "share of its time", True),
}
# The word in the names of a group that tells its marks apart, beside peer, shape, threads, device.
NAMES = {"kernels": "kernel", "memory": "", "throughput": "", "atari": ""}
# The groups in one file, by the end of its name.
FILES = {
    "": ("training", "cores"),
    "_solve": ("solve",),
    "_kernels": ("kernels", "memory"),
    "_lengths": ("update", "length", "acting"),
    "_shares": ("throughput", "atari"),
}


class Panel(NamedTuple):
    """One group: its lines, and what tells its marks apart."""

    group: Group
    title: str
    lines: Mapping[str, list[Row]]
    marks: Mapping[str, list[Row]]

    @property
    def height(self) -> float:
        """The height in inches."""
        entries = -(-len(self.marks) // 2) if len(self.marks) > 1 else 0
        return len(self.lines) * LINE + AROUND + entries * ENTRY


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """All groups that have rows; a file without any group is left out.

    Args:
        rows: The table.
        path: The first file; the names of the others begin with its own.
    """
    groups = plot.by(rows, "group")
    # one peer; all of them would hide what the other groups say
    groups["cores"] = sorted(
        (row for row in groups.get("cores", []) if row["peer"] == CELL_LOOP),
        key=lambda row: -float(row["ratio"]),
    )
    for end, names in FILES.items():
        panels = [_panel(name, groups[name]) for name in names if groups.get(name)]
        if not panels:
            continue
        heights = [panel.height for panel in panels]
        with plot.figure(path.with_stem(path.stem + end), WIDTH, sum(heights)) as figure:
            grid = figure.subplots(len(panels), 1, height_ratios=heights, squeeze=False)
            for axes, panel in zip(grid.flat, panels, strict=True):
                _draw_panel(axes, panel)


def _panel(name: str, rows: Sequence[Row]) -> Panel:
    """The panel of a group: words that all rows share are in its title, the others beside it."""
    group = GROUPS[name]
    if not all(group.columns[0] in row for row in rows):
        # a table of before there was a second clock
        group = group._replace(axis="times as fast as the peer", columns=RATIO)
    words = [_words(row) for row in rows]
    shapes = [each["shape"].split(", ") for each in words]
    same = [part for part in shapes[0] if all(part in shape for shape in shapes)]
    for each, shape in zip(words, shapes, strict=True):
        each["shape"] = ", ".join(part for part in shape if part not in same)
    kinds = [NAMES.get(name, "name"), "peer", "shape", "threads", "device"]
    apart = [
        kind
        for kind in kinds
        if kind and kind != group.line and len({each[kind] for each in words}) > 1
    ]
    lines: dict[str, list[Row]] = {}
    marks: dict[str, list[Row]] = {}
    for row, each in zip(rows, words, strict=True):
        lines.setdefault(each[group.line], []).append(row)
        marks.setdefault(", ".join(each[kind] for kind in apart), []).append(row)
    title = ", ".join([group.title, *same])
    if not group.share and group.line != "peer" and "peer" not in apart:
        title += f"; against {words[0]['peer']}"
    return Panel(group, title, lines, marks)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    count = len(panel.marks)
    notes: dict[str, None] = {}
    heights = {id(row): at for at, rows in enumerate(panel.lines.values()) for row in rows}
    styles = zip(cycle(plot.COLOURS), cycle(plot.MARKERS), strict=False)
    marks = zip(panel.marks.items(), styles, strict=False)
    for place, ((label, rows), (colour, marker)) in enumerate(marks):
        shift = (place - (count - 1) / 2) * 0.72 / count
        for row in rows:
            height = heights[id(row)] + shift
            ratio, low, high = (float(row[column]) for column in panel.group.columns)
            note = str(row.get("note", ""))
            notes |= {note: None} if note else {}
            plot.interval(axes, (ratio, low, high), height, colour, marker, hollow=bool(note))
            if count == 1:
                plot.write_beside(axes, high, height, f"{ratio:.2g}")
        if count > 1:
            axes.plot([], [], marker, color=colour, label=label, markersize=6)
    for note in notes:
        axes.plot([], [], "o", color=plot.COLOURS[0], mfc="white", label=note, markersize=6)
    _scale(axes, panel)
    plot.name_rows(axes, list(panel.lines))
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.set_title(panel.title)
    plot.legend_below(axes)


def _scale(axes: Axes, panel: Panel) -> None:
    one = panel.group.columns == SECONDS
    axes.set_xlabel(panel.group.axis + ("" if one else ": median, lowest and highest round"))
    rows = [row for line in panel.lines.values() for row in line]
    _, low, high = panel.group.columns
    lowest, highest = min(plot.numbers(rows, low)), max(plot.numbers(rows, high))
    if panel.group.share:
        axes.set_xlim(0, max(1.0, highest))
        return
    if one:
        plot.log_axis(axes, 10, LogLocator(subs=(1, 2, 5)))
        axes.set_xlim(lowest / 1.3, highest * 1.3)
        return
    axes.axvline(1.0, color="black", linewidth=1)
    wide = highest > 4 or lowest < 0.5
    plot.log_axis(axes, 10, LogLocator(subs=(1, 2, 5) if wide else (1, 1.2, 1.5, 2, 3, 5, 7)))
    # room for the numbers beside the marks
    axes.set_xlim(min(0.8, lowest) / 1.15, max(2.1, highest) * 1.15)
