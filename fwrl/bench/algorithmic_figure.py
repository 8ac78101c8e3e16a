"""The figure of code execution and ListOps: accuracies as bars, and how they grew in training."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row

COLOURS = ["#0072b2", "#d55e00", "#b8860b", "#009e73", "#7a4fa3", "#cc5fa0", "#4d4d4d", "#3aa5d9"]


class Labels(NamedTuple):
    """What the two benchmarks call things."""

    title: str
    # the column that parts the panels, such as "depth"
    panel: str
    # what an accuracy is the share of
    accuracy: str
    # another column of the tests, and what it is called: a mark on each bar
    mark: tuple[str, str] | None
    # the same, of what knowing nothing gives: a line across all bars
    baseline: tuple[str, str] | None
    # whose marks the grey ones are
    published: str


def draw_accuracies(
    rows: Sequence[Row], published: Sequence[Row], labels: Labels, path: Path
) -> None:
    """A line of two panels for each difficulty: the tests, and the validations before them.

    Where a difficulty was not published, the figures of those that were stand in their place.
    """
    panels = sorted({int(row[labels.panel]) for row in rows})
    methods = list(dict.fromkeys(str(row["method"]) for row in [*rows, *published]))
    colours = dict(zip(methods, cycle(COLOURS), strict=False))
    figure, axes = plt.subplots(
        len(panels), 2, figsize=(10, 4.4 * len(panels)), squeeze=False, layout="constrained"
    )
    for panel, (left, right) in zip(panels, axes, strict=True):
        ours = [row for row in rows if row[labels.panel] == panel]
        known = [row for row in published if row[labels.panel] == panel]
        _draw_tests(left, colours, ours, known or published, labels)
        _draw_validations(right, colours, ours, labels)
        left.set_title(f"{labels.title}, {labels.panel} {panel}", loc="left", fontsize=10.5)
        _draw_baseline([left.axvline, right.axhline], ours, labels)
        left.legend(
            fontsize=8.5, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=3, frameon=False
        )
        right.set_title("in training, on examples of their own", loc="left", fontsize=10.5)
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _draw_tests(
    axes: Axes,
    colours: Mapping[str, str],
    rows: Sequence[Row],
    published: Sequence[Row],
    labels: Labels,
) -> None:
    """A bar for each memory, a dot for each seed, and the published figures in grey."""
    tests = [row for row in rows if "accuracy" in row]
    shown = {str(row["method"]) for row in [*tests, *published]}
    methods = [method for method in colours if method in shown]
    marks: list[tuple[float, int]] = []
    for place, method in enumerate(methods):
        own = [row for row in tests if row["method"] == method]
        seeds = [float(row["accuracy"]) for row in own]
        if seeds:
            mean = sum(seeds) / len(seeds)
            axes.barh(place, mean, height=0.62, color=colours[method], alpha=0.85)
            axes.text(mean + 0.012, place - 0.17, f"{mean:.3f}", va="center", fontsize=8.5)
        if len(seeds) > 1:
            axes.plot(seeds, [place] * len(seeds), "o", color="black", markersize=3)
        if labels.mark:
            marks += [(float(row[labels.mark[0]]), place) for row in own]
    theirs = [(float(row["accuracy"]), methods.index(str(row["method"]))) for row in published]
    _draw_marks(axes, theirs, "D", "#666666", labels.published)
    here = {row[labels.panel] for row in rows}
    for row, (accuracy, place) in zip(published, theirs, strict=True):
        if row[labels.panel] not in here:
            axes.text(accuracy, place + 0.44, str(row[labels.panel]), ha="center", fontsize=7.5)
    if labels.mark:
        _draw_marks(axes, marks, "|", "black", labels.mark[1])
    axes.set_yticks(range(len(methods)), methods)
    axes.set_ylim(len(methods) - 0.3, -0.6)
    axes.set_xlim(0, 1.1)
    axes.set_xlabel(f"share of {labels.accuracy}")
    axes.grid(alpha=0.2, axis="x")


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
        axes.legend(fontsize=8.5, frameon=False)


def _step(row: Row) -> int:
    return int(row["step"])
