"""The figures of ``fwrl bench recall``, one for each task.

Latest value of a key: accuracy against the size of the memory, a panel per family, the other
families grey behind it. Multi-query recall: accuracy against the number of pairs, a panel a width.
"""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator

from fwrl.bench import plot
from fwrl.bench.benchmark import Row

# The panel of memories that are in none of the others.
OTHERS = "Attention and recurrent networks"
FAMILIES = {
    "Update rules and feature maps": (
        "delta, silu",
        "delta, dpfp",
        "gated delta, silu",
        "kda, silu",
        "gated delta 2, silu",
        "efla, silu",
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
    "Later memories": (
        *("rwkv7", "mesa", "agalite", "stable_hadamard", "ffm", "lru", "mamba2", "s5"),
        *("mingru", "mlstm", "slstm"),
    ),
    OTHERS: (),
}
# Lines that hide each other are seen between their dashes.
LINES = ("-", "--", "-.")
# The line from the end of a curve to its name.
TO_NAME = {"arrowstyle": "-", "linestyle": ":", "linewidth": 1.2, "relpos": (0.0, 0.5)}
# One memory: the accuracy of each seed by the size of the memory.
Line = dict[int, list[float]]


def best_rate(rows: Sequence[Row]) -> list[Row]:
    """The points of the learning rate that is best on average over seeds.

    A rate is compared where it has most seeds, so that a sweep can be looked at before its end.
    """
    rates = plot.by(rows, "learning_rate").values()
    most = max(map(len, rates))
    return max((found for found in rates if len(found) == most), key=mean_accuracy)


def mean_accuracy(rows: Sequence[Row]) -> float:
    """The mean over the rows."""
    return sum(float(row["accuracy"]) for row in rows) / len(rows)


def lines_of(rows: Sequence[Row]) -> dict[str, Line]:
    """The lines by memory, from the smallest width to the largest."""
    return {
        str(memory): {
            int(seeds[0]["state_size"]): plot.numbers(seeds, "accuracy")
            for seeds in map(best_rate, plot.by(own, "width").values())
        }
        for memory, own in plot.by(sorted(rows, key=lambda row: row["width"]), "memory").items()
    }


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


def draw_families(rows: Sequence[Row], path: Path, chance: float, setting: str) -> None:
    """Accuracy against the numbers that a stream's memory holds."""
    every = lines_of(rows)
    # nothing remembered has no place on a logarithmic axis
    lines = {memory: line for memory, line in every.items() if min(line) > 0}
    titles = [title for title in FAMILIES if any(family_of(m) == title for m in lines)]
    if not titles:
        return
    smallest = min(size for line in lines.values() for size in line)
    across, down = min(len(titles), 2), -(-len(titles) // 2)
    about = "mean and range of the seeds; grey: the memories of the other panels"
    title = f"Latest value of a key: {setting}\n{about}"
    with plot.figure(path, 4.7 * across, 3.5 * down, title) as figure:
        panels = figure.subplots(down, across, sharex=True, sharey=True, squeeze=False)
        for axes, title in zip(panels.flat, titles, strict=False):
            _draw_family(axes, title, lines)
            axes.axhline(chance, **plot.CHANCE)
            label = "chance, none" if "none" in every else "chance"
            axes.annotate(
                label, (smallest, chance), (0, -10), textcoords="offset points", fontsize=9
            )
            plot.log_axis(axes, 2, LogLocator(base=4))
            axes.tick_params(labelbottom=True, labelleft=True, labelsize=9)
            axes.set_ylim(0, 1.04)
        for axes in panels.flat[len(titles) :]:
            axes.set_visible(False)
        figure.supxlabel("numbers remembered per stream", fontsize=10)
        figure.supylabel("recall accuracy", fontsize=10)


def _draw_family(axes: Axes, title: str, lines: Mapping[str, Line]) -> None:
    """The lines of one family, with their names in a column at the right."""
    means = {
        memory: [sum(seeds) / len(seeds) for seeds in line.values()]
        for memory, line in lines.items()
    }
    for memory, line in lines.items():
        if family_of(memory) != title:
            axes.plot([*line], means[memory], color="#dddddd", linewidth=1, zorder=1)
    own = sorted(memory for memory in lines if family_of(memory) == title)
    named = FAMILIES[title]
    own.sort(key=lambda memory: named.index(memory) if memory in named else len(named))
    colours = plot.colours_of(own)
    own.sort(key=lambda memory: means[memory][-1])
    heights = spread([means[memory][-1] for memory in own], gap=0.075, top=1.0)
    styles = zip(cycle(LINES), cycle(plot.MARKERS), strict=False)
    for memory, height, (dashes, marker) in zip(own, heights, styles, strict=False):
        plot.curve(axes, lines[memory], colours[memory], line=dashes, marker=marker)
        axes.annotate(
            memory,
            xy=(max(lines[memory]), means[memory][-1]),
            xytext=(1.02, height),
            textcoords=axes.get_yaxis_transform(),
            fontsize=9.5,
            va="center",
            annotation_clip=False,
            arrowprops=TO_NAME | {"color": colours[memory]},
        )
    axes.set_title(title)


def draw_pairs(rows: Sequence[Row], path: Path, chance: float) -> None:
    """Accuracy at the best learning rate of each memory: bars, or lines if sizes differ."""
    colours = plot.colours_of(list(plot.by(rows, "memory")))
    widths = plot.by(sorted(rows, key=lambda row: (row["width"], row["pairs"])), "width")
    if len(widths) == 1 and len(plot.by(rows, "pairs")) == 1:
        _draw_bars(rows, path, colours, chance)
        return
    title = "Multi-query recall; mean and range of the seeds"
    with plot.figure(path, 9, 0.6 + 4.0 * len(widths), title) as figure:
        panels = figure.subplots(len(widths), 1, sharex=True, squeeze=False)
        for axes, (width, of_width) in zip(panels.flat, widths.items(), strict=True):
            memories = plot.by(of_width, "memory")
            for (memory, colour), marker in zip(colours.items(), cycle(plot.MARKERS), strict=False):
                if memory not in memories:
                    continue
                points = {
                    int(pairs): plot.numbers(best_rate(own), "accuracy")
                    for pairs, own in plot.by(memories[memory], "pairs").items()
                }
                label = f"{memory} ({memories[memory][0]['state_size']:,} numbers)"
                plot.curve(axes, points, colour, label, marker=marker)
            axes.axhline(chance, **plot.CHANCE, label=f"chance 1/{1 / chance:.0f}")
            axes.set_title(f"width {width}")
            axes.set(xlabel="pairs", ylabel="recall accuracy", ylim=(0, 1.04))
            plot.log_axis(axes, 2, FixedLocator(sorted(plot.by(rows, "pairs"))))
            axes.tick_params(labelbottom=True)
            plot.legend_below(axes, 3)


def _draw_bars(rows: Sequence[Row], path: Path, colours: Mapping[str, str], chance: float) -> None:
    """A bar for each memory, a dot for each seed."""
    best = {memory: best_rate(own) for memory, own in plot.by(rows, "memory").items()}
    about = f"{rows[0]['pairs']} pairs in {rows[0]['length']} tokens, width {rows[0]['width']}"
    height = 1.9 + 0.5 * len(best)
    with plot.figure(path, 9, height, f"Multi-query recall: {about}") as figure:
        axes = figure.subplots()
        plot.bars(
            axes, {name: plot.numbers(own, "accuracy") for name, own in best.items()}, colours
        )
        names = [f"{name}\n({own[0]['state_size']:,} numbers)" for name, own in best.items()]
        axes.set_yticks(range(len(names)), names)
        axes.axvline(chance, **plot.CHANCE, label=f"chance 1/{1 / chance:.0f}")
        axes.set(xlim=(0, 1.08), xlabel="recall accuracy: mean, and a dot for each seed")
        plot.legend_below(axes)
