"""The figure of the retrieval benchmarks: loss against S, ours solid, the published one dashed."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#7a4fa3", "#b8860b", "#4d4d4d"]
MARKERS = "os^DvP"
# An answer of zeros: half the square of a one-hot vector's length.
NOTHING = 0.5
# What is so much worse than nothing is drawn at the edge.
TOP = 0.62


def panel_of(method: str) -> str:
    """The title of the panel in which a method stands."""
    if "favor" in method:
        return "Random features, drawn anew at every pass"
    if method.startswith(("delta", "clipped")):
        return "Memories that replace"
    return "Attention, and memories that add"


def curve(rows: Sequence[Row], method: str) -> tuple[list[int], list[float]]:
    """The sizes, and the mean loss over the seeds at each."""
    by_size: dict[int, list[float]] = {}
    for row in rows:
        if row["method"] == method:
            by_size.setdefault(int(row["keys"]), []).append(float(row["loss"]))
    sizes = sorted(by_size)
    return sizes, [sum(by_size[size]) / len(by_size[size]) for size in sizes]


def largest_solved(rows: Sequence[Row], method: str, solved: float) -> int | None:
    """The largest size up to which all are solved, None if not even the smallest is.

    Published losses have four digits, so those that count as solved are at most ``solved``.
    """
    largest = None
    for size, loss in zip(*curve(rows, method), strict=True):
        if loss > solved:
            break
        largest = size
    return largest


def draw_losses(
    rows: Sequence[Row], published: Sequence[Row], path: Path, title: str, solved: float
) -> None:
    """One panel per family of methods, with how far each is solved in its legend."""
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    panels = list(dict.fromkeys(map(panel_of, methods)))
    figure, axes = plt.subplots(
        1,
        len(panels),
        figsize=(5.2 * len(panels), 4.6),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for panel, one in zip(panels, axes.flat, strict=True):
        own = [method for method in methods if panel_of(method) == panel]
        _draw_panel(one, own, rows, published, solved)
        one.set_title(panel, loc="left", fontsize=10.5)
    axes.flat[0].set_ylabel("best evaluation loss")
    figure.suptitle(f"{title}; dashed: published", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_panel(
    axes: Axes, methods: Sequence[str], rows: Sequence[Row], published: Sequence[Row], solved: float
) -> None:
    for method, colour, marker in zip(methods, cycle(COLOURS), cycle(MARKERS), strict=False):
        sizes, losses = curve(rows, method)
        label = f"{method}: {_reach(largest_solved(rows, method, solved))}"
        shown = [min(loss, TOP) for loss in losses]
        axes.plot(sizes, shown, color=colour, marker=marker, markersize=4, label=label)
        old_sizes, old_losses = curve(published, method)
        if old_sizes:
            shown = [min(loss, TOP) for loss in old_losses]
            axes.plot(old_sizes, shown, color=colour, linestyle="--", linewidth=1, alpha=0.8)
    axes.axhline(NOTHING, color="black", linewidth=0.8, linestyle=":")
    axes.set_ylim(-0.02, TOP + 0.02)
    axes.set_xlabel("S, keys and values")
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, frameon=False)


def _reach(size: int | None) -> str:
    return "not solved" if size is None else f"solved to {size}"
