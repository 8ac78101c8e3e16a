"""The figures of ``fwrl bench recall``, one for each task.

Of the latest values: accuracy against the size of the memory, a panel per family, the other
families grey behind it. Of many queries: accuracy against the number of pairs, a panel per width.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle, groupby
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from fwrl.bench.benchmark import Row, Value

# What is in none of the families stands with these.
OTHERS = "Attention and recurrent networks"
FAMILIES = {
    "Update rules and feature maps": (
        "delta, silu",
        "delta, dpfp",
        "gated delta, silu",
        "kda, silu",
        "gated sum, silu",
        "sum, elu + 1",
        "sum, dpfp",
        "sum, favor",
    ),
    "Fast weights inside recurrent networks": (
        "delta_mlp",
        "delta_delta",
        "delta_rnn",
        "delta_lstm",
        "recurrent_delta",
        "slow_rnn",
        "fast_weight_memory",
        "self_referential",
    ),
    "Later memories": ("rwkv7", "mesa", "agalite", "stable_hadamard", "ffm", "lru"),
    OTHERS: (),
}
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#7a4fa3", "#b8860b", "#cc5fa0", "#4d4d4d", "#3aa5d9"]
MARKERS = "osD^vPX<"
BEHIND = "#dddddd"
# from the end of a line to its name
TO_NAME = {"arrowstyle": "-", "linestyle": ":", "linewidth": 0.8, "relpos": (0.0, 0.5)}


class Line(NamedTuple):
    """One memory: for each width a size, and the accuracy of each seed."""

    sizes: list[int]
    accuracies: list[list[float]]

    @property
    def means(self) -> list[float]:
        """Over the seeds."""
        return [sum(seeds) / len(seeds) for seeds in self.accuracies]


def best_rate(rows: Sequence[Row]) -> list[Row]:
    """Of points that differ in learning rate and seed: those of the rate that is best on average.

    A rate is compared where it has most seeds, so that a sweep can be looked at before its end.
    """
    by_rate: dict[float, list[Row]] = {}
    for row in rows:
        by_rate.setdefault(float(row["learning_rate"]), []).append(row)
    most = max(map(len, by_rate.values()))
    return max((found for found in by_rate.values() if len(found) == most), key=mean_accuracy)


def mean_accuracy(rows: Sequence[Row]) -> float:
    """Over the rows."""
    return sum(float(row["accuracy"]) for row in rows) / len(rows)


def groups(rows: Sequence[Row], *columns: str) -> dict[tuple[Value, ...], list[Row]]:
    """The rows that agree in these columns, in their order."""

    def key(row: Row) -> tuple[Value, ...]:
        return tuple(row[column] for column in columns)

    return {found: list(group) for found, group in groupby(sorted(rows, key=key), key=key)}


def lines_of(rows: Sequence[Row]) -> dict[str, Line]:
    """The lines by memory, from the smallest width to the largest."""
    lines: dict[str, Line] = {}
    for (memory, _), group in groups(rows, "memory", "width").items():
        seeds = best_rate(group)
        line = lines.setdefault(str(memory), Line([], []))
        line.sizes.append(int(seeds[0]["state_size"]))
        line.accuracies.append([float(row["accuracy"]) for row in seeds])
    return lines


def family_of(memory: str) -> str:
    """The title of its panel."""
    return next((title for title, members in FAMILIES.items() if memory in members), OTHERS)


def spread(heights: Sequence[float], gap: float, top: float) -> list[float]:
    """The nearest heights, from the lowest up, that are at least a gap apart and not above top."""
    apart: list[float] = []
    for height in heights:
        apart.append(max(height, apart[-1] + gap) if apart else height)
    for index in reversed(range(len(apart))):
        apart[index] = min(apart[index], top - gap * (len(apart) - 1 - index))
    return apart


def draw_panel(axes: Axes, title: str, lines: Mapping[str, Line]) -> None:
    """The lines of one family, with their names in a column at the right."""
    for memory, line in lines.items():
        if family_of(memory) != title:
            axes.plot(line.sizes, line.means, color=BEHIND, linewidth=1, zorder=1)
    own = [memory for memory in lines if family_of(memory) == title]
    own.sort(key=lambda memory: lines[memory].means[-1])
    heights = spread([lines[memory].means[-1] for memory in own], gap=0.062, top=1.0)
    for memory, height, colour, marker in zip(
        own, heights, cycle(COLOURS), cycle(MARKERS), strict=False
    ):
        line = lines[memory]
        lowest, highest = ([f(seeds) for seeds in line.accuracies] for f in (min, max))
        axes.plot(line.sizes, line.means, color=colour, marker=marker, markersize=5, linewidth=1.8)
        axes.vlines(line.sizes, lowest, highest, color=colour, alpha=0.5, linewidth=1.2)
        axes.annotate(
            memory,
            xy=(line.sizes[-1], line.means[-1]),
            xytext=(1.02, height),
            textcoords=axes.get_yaxis_transform(),
            color=colour,
            fontsize=9,
            va="center",
            annotation_clip=False,
            arrowprops=TO_NAME | {"color": colour},
        )
    axes.set_title(title, loc="left", fontsize=10.5)


def draw_families(rows: Sequence[Row], path: Path, chance: float, setting: str) -> None:
    """Accuracy against the numbers that a stream's memory holds."""
    every = lines_of(rows)
    # nothing remembered has no place on a logarithmic axis
    lines = {memory: line for memory, line in every.items() if min(line.sizes) > 0}
    titles = [title for title in FAMILIES if any(family_of(m) == title for m in lines)]
    if not titles:
        return
    sizes = [size for line in lines.values() for size in line.sizes]
    columns = min(len(titles), 2)
    figure, panels = plt.subplots(
        -(-len(titles) // columns),
        columns,
        figsize=(6.2 * columns, 3.6 * -(-len(titles) // columns)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, title in zip(panels.flat, titles, strict=False):
        draw_panel(axes, title, lines)
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":")
        label = "chance, none" if "none" in every else "chance"
        axes.annotate(label, (min(sizes), chance), (0, -9), textcoords="offset points", fontsize=8)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=4))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_ylim(0, 1.04)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(titles) :]:
        axes.set_visible(False)
    figure.supxlabel("numbers remembered per stream", fontsize=10)
    figure.supylabel("recall accuracy", fontsize=10)
    figure.suptitle(f"Latest value of a key: {setting}; mean and range of the seeds", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_pairs(rows: Sequence[Row], path: Path, chance: float) -> None:
    """Accuracy against the number of pairs, at the best learning rate of each memory."""
    widths = sorted({int(row["width"]) for row in rows})
    memories = list(dict.fromkeys(str(row["memory"]) for row in rows))
    figure, panels = plt.subplots(
        1,
        len(widths),
        figsize=(max(4.6 * len(widths), 6.4), 3.9),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    styles = dict(zip(memories, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    for axes, width in zip(panels.flat, widths, strict=True):
        for memory, (colour, marker) in styles.items():
            here = [row for row in rows if (row["memory"], row["width"]) == (memory, width)]
            points = {pairs: best_rate(found) for (pairs,), found in groups(here, "pairs").items()}
            if not points:
                continue
            counts = [int(pairs) for pairs in points]
            seeds = [[float(row["accuracy"]) for row in found] for found in points.values()]
            size = next(iter(points.values()))[0]["state_size"]
            means = [sum(found) / len(found) for found in seeds]
            axes.vlines(counts, [*map(min, seeds)], [*map(max, seeds)], color=colour, alpha=0.5)
            axes.plot(
                counts, means, color=colour, marker=marker, ms=5, label=f"{memory} ({size:,})"
            )
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":")
        axes.set_title(f"width {width} (numbers remembered per stream)", loc="left", fontsize=10)
        axes.set_xlabel("pairs")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.set_ylim(0, 1.04)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    panels[0][0].set_ylabel("recall accuracy")
    figure.savefig(path, dpi=150)
    plt.close(figure)
