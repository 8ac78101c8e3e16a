"""The figure of code execution and ListOps: accuracies as bars, and how they grew in training."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from matplotlib.axes import Axes

from fwrl.bench import plot
from fwrl.bench.benchmark import Row


class Labels(NamedTuple):
    """The columns and the words of one of the two benchmarks."""

    title: str
    # the column whose values have panels of their own, such as "depth"
    panel: str
    # a panel in words, such as "depth {}"
    setting: str
    # the things whose share an accuracy is
    accuracy: str
    # a second column of the tests, drawn as a mark on each bar, and its name
    mark: tuple[str, str] | None
    # the column with the accuracy of knowing nothing, drawn as a line across all bars, and its name
    baseline: tuple[str, str] | None


def draw_accuracies(
    rows: Sequence[Row], published: Sequence[Row], labels: Labels, path: Path
) -> None:
    """Two panels for each difficulty: the tests, and the validations before them.

    Args:
        rows: Our tests and validations.
        published: Those of the same task; each is beside ours of the same method and difficulty.
        labels: The columns and the words of the benchmark.
        path: The PNG file.
    """
    difficulties = dict(sorted(plot.by(rows, labels.panel).items()))
    colours = plot.colours_of(list(plot.by(rows, "method")))
    height = max(1.7 + 0.45 * len(colours), 3.4) * len(difficulties)
    with plot.figure(path, 9.2, height) as figure:
        grid = figure.subplots(len(difficulties), 2, squeeze=False)
        for (left, right), (difficulty, ours) in zip(grid, difficulties.items(), strict=True):
            setting = labels.setting.format(difficulty)
            left.set_title(f"{labels.title}, {setting}")
            left.set(xlabel=f"share of {labels.accuracy}", xlim=(0, 1.1))
            right.set_title("the same while training, on other examples")
            right.set(xlabel="updates", ylim=(-0.02, 1.04))
            tests = [row for row in ours if "accuracy" in row]
            known = [row for row in published if row[labels.panel] == difficulty]
            accuracies = {
                name: plot.numbers(own, "accuracy")
                for name, own in plot.by(tests, "method").items()
            }
            plot.bars(left, accuracies, colours)
            _draw_marks(left, tests, known, "accuracy", "D", f"published ({setting})")
            if labels.mark:
                _draw_marks(left, tests, tests, labels.mark[0], "|", labels.mark[1])
            for method, own in plot.by(ours, "method").items():
                plot.seeds(right, own, "step", "validation_accuracy", colours[method], method)
            if labels.baseline and (shares := plot.numbers(tests, labels.baseline[0])):
                left.axvline(max(shares), color="black", lw=1, ls="--", label=labels.baseline[1])
                right.axhline(max(shares), color="black", lw=1, ls="--")
            plot.legend_below(left)
            plot.legend_below(right, 3)


def _draw_marks(
    axes: Axes, tests: Sequence[Row], rows: Sequence[Row], column: str, marker: str, label: str
) -> None:
    """A mark on the bars, for each row whose method was tested."""
    methods = list(plot.by(tests, "method"))
    own = [row for row in rows if row["method"] in methods]
    heights = [methods.index(str(row["method"])) + 0.17 for row in own]
    if own:
        plot.marks(axes, plot.numbers(own, column), heights, marker, label, "black")
