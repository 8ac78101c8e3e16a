"""The figures of ``fwrl bench speed``: a line for each peer or core, a mark for each ratio.

What is not in them, such as the group ``layer``, has too many rows for a figure.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator, NullLocator

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import COLOURS, legend_below
from fwrl.bench.speed.peers import CELL_LOOP

MARKERS = "osD^vP"
# Inches: of a line, of what stands around a panel, of an entry below it, and of a page.
LINE, AROUND, ENTRY, WIDTH = 0.3, 1.05, 0.22, 9.0
SHAPES = (
    (r"\bB 1\b", "1 stream"),
    (r"\bB (\d+)", r"\1 streams"),
    (r"\bT (\d+)", r"\1 steps"),
    (r"(\d+) x (\d+)", r"\1 heads of \2"),
)


Word = Callable[[Row], str]


class Group(NamedTuple):
    """How a group is drawn."""

    title: str
    # what its lines are; all else in which its rows differ makes the marks
    line: Word
    axis: str = "times as fast as the peer"
    # from 0 to 1, not against a peer
    share: bool = False


def _rule(row: Row) -> str:
    return str(row["name"]).partition(", ")[0]


def _kernel(row: Row) -> str:
    return f"{str(row['name']).partition(', ')[2]} kernel"


def _threads(row: Row) -> str:
    return "1 thread" if row["threads"] == 1 else f"{row['threads']} threads"


def _device(row: Row) -> str:
    return str(row["device"])


def _peer(row: Row) -> str:
    return _in_words(str(row["peer"]))


def _name(row: Row) -> str:
    return str(row["name"])


def _shape(row: Row) -> str:
    return _in_words(str(row["shape"]))


def _in_words(text: str) -> str:
    for pattern, words in SHAPES:
        text = re.sub(pattern, words, text)
    return text


GROUPS = {
    "training": Group("Training the default agent", _peer),
    "cores": Group("Every core, forward and backward", _name),
    "kernels": Group("Scans, forward and backward", _rule),
    "memory": Group(
        "Kept for the backward pass of a delta layer", _kernel, "times less memory than the peer"
    ),
    "update": Group("An update by the length of its rollouts", _shape),
    "length": Group("The delta layer by the length of its sequences", _shape),
    "acting": Group("Acting, one step without gradients", _shape),
    "throughput": Group(
        "Operations per second of the delta rule's scan",
        _kernel,
        "share of a matrix product's",
        True,
    ),
    "atari": Group("A training on Pong", _peer, "share of its time", True),
}
# What tells the marks of a group apart besides peer, shape, threads and device. The names of most
# hold one thing, those of some a rule and a kernel.
NAMES = {"kernels": [_kernel], "memory": [], "throughput": [], "atari": []}
# Those that are in one file, by the end of its name.
FILES = {
    "": ("training", "cores"),
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
        """In inches."""
        entries = -(-len(self.marks) // 2) if len(self.marks) > 1 else 0
        return len(self.lines) * LINE + AROUND + entries * ENTRY


def draw_ratios(rows: Sequence[Row], path: Path) -> None:
    """The groups that there are; each file is left out where it has none.

    Args:
        rows: Of the table.
        path: Of the first file; the names of the others begin with its own.
    """
    for end, names in FILES.items():
        panels = [_panel(name, own) for name in names if (own := _of(rows, name))]
        if panels:
            _draw(panels, path.with_stem(path.stem + end))


def _of(rows: Sequence[Row], name: str) -> list[Row]:
    own = [row for row in rows if row["group"] == name]
    if name == "cores":
        # one peer; all of them would hide what the other groups say
        own = [row for row in own if row["peer"] == CELL_LOOP]
    return own


def _draw(panels: Sequence[Panel], path: Path) -> None:
    heights = [panel.height for panel in panels]
    figure, all_axes = plt.subplots(
        len(panels),
        1,
        figsize=(WIDTH, sum(heights)),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axes, panel in zip(all_axes.flat, panels, strict=True):
        _draw_panel(axes, panel)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _panel(name: str, rows: Sequence[Row]) -> Panel:
    """What is the same in all rows stands in the title, the rest beside lines and marks."""
    group = GROUPS[name]
    rows = sorted(rows, key=lambda row: -float(row["ratio"])) if name == "cores" else rows
    shapes = [_shape(row).split(", ") for row in rows]
    same = [part for part in shapes[0] if all(part in shape for shape in shapes)]

    def shape(row: Row) -> str:
        return ", ".join(part for part in _shape(row).split(", ") if part not in same)

    line = shape if group.line is _shape else group.line
    words = [*NAMES.get(name, [_name]), _peer, shape, _threads, _device]
    words = [word for word in words if word is not line and len(set(map(word, rows))) > 1]
    lines: dict[str, list[Row]] = {}
    marks: dict[str, list[Row]] = {}
    for row in rows:
        lines.setdefault(line(row), []).append(row)
        marks.setdefault(", ".join(word(row) for word in words), []).append(row)
    title = ", ".join([group.title, *same])
    if not group.share and _peer is not line and _peer not in words:
        title += f"; against {_peer(rows[0])}"
    return Panel(group, title, lines, marks)


def _draw_panel(axes: Axes, panel: Panel) -> None:
    count = len(panel.marks)
    styles = zip(cycle(COLOURS), cycle(MARKERS), strict=False)
    notes: dict[str, None] = {}
    heights = {id(row): at for at, rows in enumerate(panel.lines.values()) for row in rows}
    for place, ((label, rows), (colour, marker)) in enumerate(
        zip(panel.marks.items(), styles, strict=False)
    ):
        shift = (place - (count - 1) / 2) * 0.72 / count
        for row in rows:
            height = heights[id(row)] + shift
            ratio, low, high = (float(row[column]) for column in ("ratio", "low", "high"))
            note = str(row.get("note", ""))
            notes |= {note: None} if note else {}
            axes.plot([low, high], [height, height], color=colour, linewidth=1.6)
            axes.plot(ratio, height, marker, color=colour, ms=6, mfc="white" if note else colour)
            if count == 1:
                # the line at 1 would go through some
                box = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}
                axes.annotate(
                    f"{ratio:.2g}", (high, height), (6, 0), textcoords="offset points",
                    va="center", fontsize=9, bbox=box,
                )  # fmt: skip
        if count > 1:
            axes.plot([], [], marker, color=colour, label=label, markersize=6)
    for note in notes:
        axes.plot([], [], "o", color=COLOURS[0], mfc="white", label=note, markersize=6)
    _scale(axes, panel)
    axes.set_yticks(range(len(panel.lines)), panel.lines, fontsize=9.5)
    axes.set_ylim(len(panel.lines) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.set_title(panel.title, loc="left", fontsize=10.5)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    legend_below(axes)


def _scale(axes: Axes, panel: Panel) -> None:
    axes.set_xlabel(f"{panel.group.axis}: median, lowest and highest round")
    numbers = [
        float(row[column])
        for rows in panel.lines.values()
        for row in rows
        for column in ("low", "high")
    ]
    if panel.group.share:
        axes.set_xlim(0, max(1.0, *numbers))
        return
    axes.axvline(1.0, color="black", linewidth=1)
    axes.set_xscale("log")
    # room for the numbers beside the marks
    axes.set_xlim(min(0.8, *numbers) / 1.15, max(2.1, *numbers) * 1.15)
    wide = max(numbers) > 4 or min(numbers) < 0.5
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if wide else (1, 1.2, 1.5, 2, 3, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter("{x:g}")
