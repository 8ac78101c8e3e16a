"""The figure of the retrieval benchmarks: loss against S, ours solid, the published one dashed."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean

from matplotlib.axes import Axes

from fwrl.bench import plot
from fwrl.bench.benchmark import Row

# The loss of an answer of zeros: half the square of a one-hot vector's length.
NOTHING = 0.5
# Losses far above that of zeros, and those so low that only their noise differs, are drawn here.
TOP, BOTTOM = 0.8, 1e-4
# The places of the families of methods, by their number.
LAYOUTS = {1: "A", 2: "AB", 3: "AB;AC"}


def panel_of(method: str) -> str:
    """The title of the panel in which a method stands."""
    if "favor" in method:
        return "Random features, drawn anew at every pass"
    if method.startswith(("delta", "clipped")):
        return "Memories that replace"
    return "Attention, and memories that add"


def curve(rows: Sequence[Row], method: str) -> tuple[list[int], list[float]]:
    """The sizes, and the mean loss over the seeds at each."""
    own = sorted(plot.by(rows, "method").get(method, []), key=lambda row: row["keys"])
    sizes = plot.by(own, "keys")
    return list(sizes), [mean(plot.numbers(seeds, "loss")) for seeds in sizes.values()]


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
    methods = list(plot.by(rows, "method"))
    panels = list(dict.fromkeys(map(panel_of, methods)))
    height = 6.4 if len(panels) > 2 else 4.6
    with plot.figure(path, 9.4, height, f"{title}; dashed: published") as figure:
        axes = figure.subplot_mosaic(LAYOUTS[len(panels)], sharex=True)
        for panel, one in zip(panels, axes.values(), strict=True):
            own = [method for method in methods if panel_of(method) == panel]
            _draw_panel(one, own, rows, published, solved)
            one.set_title(panel)
        axes["A"].set_ylabel("best evaluation loss")


def _draw_panel(
    axes: Axes, methods: Sequence[str], rows: Sequence[Row], published: Sequence[Row], solved: float
) -> None:
    for (method, colour), marker in zip(
        plot.colours_of(methods).items(), cycle(plot.MARKERS), strict=False
    ):
        reach = largest_solved(rows, method, solved)
        label = f"{method}: " + ("not solved" if reach is None else f"solved to {reach}")
        sizes, losses = curve(rows, method)
        axes.plot(sizes, _inside(losses), color=colour, marker=marker, ms=4, label=label)
        sizes, losses = curve(published, method)
        axes.plot(sizes, _inside(losses), "--", color=colour, linewidth=1, alpha=0.8)
    for height, name in ((NOTHING, "answer of zeros"), (solved, f"solved: {solved:g} or less")):
        axes.axhline(height, color=plot.GREY, linewidth=1, linestyle=":", zorder=0)
        axes.annotate(
            name, (1, height), (0, 3), axes.get_yaxis_transform(), "offset points",
            ha="right", fontsize=8.5, bbox=plot.BOX,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_ylim(BOTTOM / 1.2, TOP * 1.2)
    axes.set_xlabel("S, keys and values")
    axes.tick_params(labelbottom=True, labelleft=True)
    plot.legend_below(axes)


def _inside(losses: Sequence[float]) -> list[float]:
    return [min(max(loss, BOTTOM), TOP) for loss in losses]
