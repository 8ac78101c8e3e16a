"""The figure of the retrieval benchmarks: loss against S, ours solid, the published one dashed."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import GREY, colours_of, legend_below

MARKERS = "os^DvP"
# An answer of zeros: half the square of a one-hot vector's length.
NOTHING = 0.5
# What is so much worse than nothing, or so good that only its noise differs, is drawn at the edge.
TOP, BOTTOM = 0.8, 1e-4


# Where the families of methods stand, by their number.
LAYOUTS = {1: "A", 2: "AB", 3: "AB;AC"}
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8}


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
    places = LAYOUTS[len(panels)]
    figure, axes = plt.subplot_mosaic(
        places, figsize=(9.4, 6.4 if len(panels) > 2 else 4.6), sharex=True, layout="constrained"
    )
    for panel, one in zip(panels, axes.values(), strict=True):
        own = [method for method in methods if panel_of(method) == panel]
        _draw_panel(one, own, rows, published, solved)
        one.set_title(panel, loc="left", fontsize=10.5)
    axes["A"].set_ylabel("best evaluation loss")
    figure.suptitle(f"{title}; dashed: published", fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_panel(
    axes: Axes, methods: Sequence[str], rows: Sequence[Row], published: Sequence[Row], solved: float
) -> None:
    colours = colours_of(methods)
    for (method, colour), marker in zip(colours.items(), cycle(MARKERS), strict=False):
        sizes, losses = curve(rows, method)
        label = f"{method}: {_reach(largest_solved(rows, method, solved))}"
        axes.plot(sizes, _inside(losses), color=colour, marker=marker, markersize=4, label=label)
        old_sizes, old_losses = curve(published, method)
        if old_sizes:
            axes.plot(old_sizes, _inside(old_losses), "--", color=colour, linewidth=1, alpha=0.8)
    for height, name in ((NOTHING, "answer of zeros"), (solved, f"solved: {solved:g} or less")):
        axes.axhline(height, color=GREY, linewidth=1, linestyle=":", zorder=0)
        axes.annotate(
            name, (1, height), (0, 3), axes.get_yaxis_transform(), "offset points",
            ha="right", fontsize=8.5, color="#555555", bbox=LABEL,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(BOTTOM / 1.2, TOP * 1.2)
    axes.set_xlabel("S, keys and values")
    axes.tick_params(labelbottom=True, labelleft=True)
    axes.grid(alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(axes)


def _inside(losses: Sequence[float]) -> list[float]:
    return [min(max(loss, BOTTOM), TOP) for loss in losses]


def _reach(size: int | None) -> str:
    return "not solved" if size is None else f"solved to {size}"
