"""The figure of code execution and ListOps: accuracies as bars, and how they grew in training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import GREY, colours_of, legend_below

BOX = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}


class Labels(NamedTuple):
    """What the two benchmarks call things."""

    title: str
    # the column that parts the panels, such as "depth"
    panel: str
    # a panel in words, such as "depth {}"
    setting: str
    # what an accuracy is the share of
    accuracy: str
    # another column of the tests, and what it is called: a mark on each bar
    mark: tuple[str, str] | None
    # the same, of what knowing nothing gives: a line across all bars
    baseline: tuple[str, str] | None


def draw_accuracies(
    rows: Sequence[Row], published: Sequence[Row], labels: Labels, path: Path
) -> None:
    """A line of two panels for each difficulty: the tests, and the validations before them.

    Args:
        rows: Of tests and validations.
        published: Those of the same task; each is beside ours of the same method and difficulty.
        labels: What things are called.
        path: Of the PNG file.
    """
    panels = sorted({int(row[labels.panel]) for row in rows})
    colours = colours_of(list(dict.fromkeys(str(row["method"]) for row in rows)))
    high = max(1.7 + 0.45 * len(colours), 3.4)
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(9.2, high * len(panels)), squeeze=False, layout="constrained"
    )
    for panel, (left, right) in zip(panels, axes, strict=True):
        ours = [row for row in rows if row[labels.panel] == panel]
        known = [row for row in published if row[labels.panel] == panel]
        setting = labels.setting.format(panel)
        _draw_tests(left, colours, ours, known, labels)
        _draw_validations(right, colours, ours, labels)
        left.set_title(f"{labels.title}, {setting}", loc="left", fontsize=10.5)
        _draw_baseline([left.axvline, right.axhline], ours, labels)
        legend_below(left)
        right.set_title("while training, on other examples", loc="left", fontsize=10.5)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_tests(
    axes: Axes,
    colours: Mapping[str, str],
    rows: Sequence[Row],
    published: Sequence[Row],
    labels: Labels,
) -> None:
    """A bar for each memory that was tested, a dot for each seed, the published figure in grey."""
    tests = [row for row in rows if "accuracy" in row]
    methods = [method for method in colours if any(row["method"] == method for row in tests)]
    marks: list[tuple[float, int]] = []
    for place, method in enumerate(methods):
        own = [row for row in tests if row["method"] == method]
        seeds = [float(row["accuracy"]) for row in own]
        mean = sum(seeds) / len(seeds)
        axes.barh(place, mean, height=0.62, color=colours[method], alpha=0.85)
        axes.text(mean + 0.015, place - 0.17, f"{mean:.3f}", va="center", fontsize=9, bbox=BOX)
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
        if labels.mark:
            marks += [(float(row[labels.mark[0]]), place) for row in own]
    theirs = [
        (float(row["accuracy"]), methods.index(str(row["method"])))
        for row in published
        if row["method"] in methods
    ]
    if theirs:
        setting = labels.setting.format(published[0][labels.panel])
        _draw_marks(axes, theirs, "D", GREY, f"published ({setting})")
    if labels.mark:
        _draw_marks(axes, marks, "|", "black", labels.mark[1])
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.3, -0.6)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of {labels.accuracy}")
    axes.grid(alpha=0.2, axis="x")
    axes.set_axisbelow(True)


def _draw_marks(
    axes: Axes, places: Sequence[tuple[float, int]], marker: str, colour: str, label: str
) -> None:
    across, down = zip(*places, strict=True) if places else ((), ())
    axes.plot(
        across,
        [place + 0.17 for place in down],
        linestyle="none",
        marker=marker,
        markersize=7 if marker == "D" else 11,
        markerfacecolor="white",
        markeredgecolor=colour,
        markeredgewidth=1.4,
        # whole at 0
        clip_on=False,
        zorder=3,
        label=label,
    )


def _draw_baseline(
    lines: Sequence[Callable[..., object]], rows: Sequence[Row], labels: Labels
) -> None:
    """Dashed, in both panels: where the tests say what knowing nothing gives."""
    column, label = labels.baseline or ("", "")
    shares = [float(row[column]) for row in rows if column in row and "accuracy" in row]
    for line in lines:
        if shares:
            line(max(shares), color="black", linewidth=1, linestyle="--", label=label)


def _draw_validations(
    axes: Axes, colours: Mapping[str, str], rows: Sequence[Row], labels: Labels
) -> None:
    """A curve for each memory and seed."""
    named: set[str] = set()
    for method, colour in colours.items():
        own = [row for row in rows if row["method"] == method and "validation_accuracy" in row]
        for seed in sorted({int(row["seed"]) for row in own}):
            curve = sorted((row for row in own if row["seed"] == seed), key=_step)
            axes.plot(
                [_step(row) for row in curve],
                [float(row["validation_accuracy"]) for row in curve],
                color=colour,
                label=None if method in named else method,
            )
            named.add(method)
    axes.set_ylim(-0.02, 1.04)
    axes.set_xlabel("updates")
    axes.set_ylabel(f"share of {labels.accuracy}")
    axes.grid(alpha=0.2)
    if named:
        axes.legend(fontsize=9, frameon=False)


def _step(row: Row) -> int:
    return int(row["step"])
