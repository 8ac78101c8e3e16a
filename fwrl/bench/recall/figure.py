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
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from fwrl.bench.benchmark import Row, Value
from fwrl.bench.plot import GREY, colours_of

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
MARKERS = "osD^vPX<"
# what hides another lets it be seen between its dashes
LINES = ("-", "--", "-.")
BEHIND = "#dddddd"
# from the end of a line to its name
TO_NAME = {"arrowstyle": "-", "linestyle": ":", "linewidth": 1.2, "relpos": (0.0, 0.5)}


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
    named = FAMILIES[title]
    own.sort(key=lambda memory: (named.index(memory) if memory in named else len(named), memory))
    colours = colours_of(own)
    own.sort(key=lambda memory: lines[memory].means[-1])
    heights = spread([lines[memory].means[-1] for memory in own], gap=0.075, top=1.0)
    for memory, height, marker, dashes in zip(
        own, heights, cycle(MARKERS), cycle(LINES), strict=False
    ):
        colour = colours[memory]
        line = lines[memory]
        lowest, highest = ([f(seeds) for seeds in line.accuracies] for f in (min, max))
        axes.plot(line.sizes, line.means, dashes, color=colour, marker=marker, ms=5, linewidth=1.6)
        axes.vlines(line.sizes, lowest, highest, color=colour, alpha=0.5, linewidth=1.2)
        axes.annotate(
            memory,
            xy=(line.sizes[-1], line.means[-1]),
            xytext=(1.02, height),
            textcoords=axes.get_yaxis_transform(),
            fontsize=9.5,
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
        figsize=(4.7 * columns, 3.5 * -(-len(titles) // columns)),
        sharex=True,
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, title in zip(panels.flat, titles, strict=False):
        draw_panel(axes, title, lines)
        axes.axhline(chance, color="black", linewidth=0.8, linestyle=":")
        label = "chance, none" if "none" in every else "chance"
        axes.annotate(label, (min(sizes), chance), (0, -10), textcoords="offset points", fontsize=9)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(LogLocator(base=4))
        axes.tick_params(labelsize=9)
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.tick_params(labelbottom=True, labelleft=True)
        axes.set_ylim(0, 1.04)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels.flat[len(titles) :]:
        axes.set_visible(False)
    figure.supxlabel("numbers remembered per stream", fontsize=10)
    figure.supylabel("recall accuracy", fontsize=10)
    about = "mean and range of the seeds; grey: the memories of the other panels"
    figure.suptitle(f"Latest value of a key: {setting}\n{about}", fontsize=10.5)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def draw_pairs(rows: Sequence[Row], path: Path, chance: float) -> None:
    """Accuracy at the best learning rate of each memory: bars, or lines if sizes differ."""
    best = {
        key: best_rate(found) for key, found in groups(rows, "memory", "width", "pairs").items()
    }
    colours = colours_of(list(dict.fromkeys(str(row["memory"]) for row in rows)))
    if len({(row["width"], row["pairs"]) for row in rows}) == 1:
        figure = _bars({str(key[0]): found for key, found in best.items()}, colours, chance)
    else:
        figure = _against_pairs(best, colours, chance)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _bars(best: Mapping[str, Sequence[Row]], colours: Mapping[str, str], chance: float) -> Figure:
    """A bar for each memory, a dot for each seed."""
    figure, axes = plt.subplots(figsize=(9, 1.7 + 0.5 * len(best)), layout="constrained")
    for place, (memory, colour) in enumerate(colours.items()):
        seeds = [float(row["accuracy"]) for row in best[memory]]
        mean = mean_accuracy(best[memory])
        axes.barh(place, mean, 0.62, color=colour, alpha=0.85)
        axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3.5)
        axes.annotate(
            f"{mean:.3f}", (max(seeds), place), (7, 0), textcoords="offset points", va="center"
        )
    names = [f"{memory}\n({best[memory][0]['state_size']:,} numbers)" for memory in colours]
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.axvline(chance, color="black", linewidth=1.4, linestyle=":")
    axes.annotate(
        f"chance 1/{1 / chance:.0f}", (chance, 1), (4, 3), axes.get_xaxis_transform(),
        "offset points", fontsize=9,
    )  # fmt: skip
    axes.set_xlim(0, 1.08)
    axes.set_xlabel("recall accuracy: mean, and a dot for each seed")
    axes.grid(alpha=0.2, axis="x")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    (row, *_) = next(iter(best.values()))
    about = f"{row['pairs']} pairs in {row['length']} tokens, width {row['width']}"
    figure.suptitle(f"Multi-query recall: {about}", x=0.01, ha="left", fontsize=11)
    return figure


def _against_pairs(
    best: Mapping[tuple[Value, ...], Sequence[Row]], colours: Mapping[str, str], chance: float
) -> Figure:
    """A panel for each width, a line for each memory."""
    widths = sorted({int(width) for _, width, _ in best})
    figure, panels = plt.subplots(
        len(widths), 1, sharex=True, squeeze=False,
        figsize=(9, 0.4 + 3.4 * len(widths)), layout="constrained",
    )  # fmt: skip
    for axes, width in zip(panels.flat, widths, strict=True):
        for (memory, colour), marker in zip(colours.items(), cycle(MARKERS), strict=False):
            points = {
                int(pairs): found for (*key, pairs), found in best.items() if key == [memory, width]
            }
            if not points:
                continue
            seeds = [[float(row["accuracy"]) for row in found] for found in points.values()]
            means = [*map(mean_accuracy, points.values())]
            (row, *_) = next(iter(points.values()))
            label = f"{memory} ({row['state_size']:,})"
            axes.vlines([*points], [*map(min, seeds)], [*map(max, seeds)], color=colour, alpha=0.5)
            axes.plot([*points], means, color=colour, marker=marker, ms=5, label=label)
        label = f"chance 1/{1 / chance:.0f}"
        axes.axhline(chance, color=GREY, linewidth=1.4, linestyle=":", label=label)
        axes.set_title(f"width {width}", loc="left", fontsize=10.5)
        axes.set_xlabel("pairs")
        axes.set_ylabel("recall accuracy")
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted({int(pairs) for *_, pairs in best}))
        axes.xaxis.set_major_formatter("{x:.0f}")
        axes.minorticks_off()
        axes.set_ylim(0, 1.04)
        axes.grid(alpha=0.2)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(
            fontsize=9, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5),
            title="memory (numbers\nit holds per stream)", title_fontsize=9,
        )  # fmt: skip
    figure.suptitle("Multi-query recall; mean and range of the seeds", fontsize=11)
    return figure
