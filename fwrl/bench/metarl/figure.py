"""The figure of ``fwrl bench metarl``: what an episode returns, against the episodes learned from.

The axis counts environment steps, because the updates of the published agents and of other presets
learn from batches of other sizes. Curves are means of the last evaluations, as the published ones
are; the thin line behind each is every evaluation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.results import read_published

PUBLISHED = read_published("metarl")
# The returns on the test graphs of an agent that knows them and walks the shortest ways, and of one
# that chooses at random.
SHORTEST_WAYS, AT_RANDOM = 165.2, 45.3

COLUMNS = ("environment_steps", "test_return", "train_return")
# The evaluations whose mean is a point of a curve.
WINDOW = 10
# The label, style and width of the lines of each colour.
LINES = (
    (f"mean of {WINDOW} evaluations, test graphs", "-", 1.6),
    ("single evaluations, test graphs", "-", 0.8),
    (f"mean of {WINDOW} evaluations, training graphs", ":", 1.2),
)


def moving_average(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, at most ``window`` of them."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def draw(_: Any, rows: Sequence[Row], path: Path) -> None:
    """Our curves beside the published ones."""
    with plot.figure(path, 9.0, 5.6, "Finding one's way on graphs not seen before") as figure:
        axes = figure.subplots()
        methods = plot.by(sorted(rows, key=lambda row: row["updates"]), "method")
        for method, colour in plot.colours_of(list(plot.by(rows, "method"))).items():
            for seed in plot.by(methods[method], "seed").values():
                steps, test, train = (plot.numbers(seed, column) for column in COLUMNS)
                axes.plot(steps, test, color=colour, alpha=0.5, linewidth=0.8)
                axes.plot(steps, moving_average(test), color=colour, label=method)
                axes.plot(steps, moving_average(train), ":", color=colour, linewidth=1.2)
        for label, style, width in LINES if rows else ():
            axes.plot([], [], style, color=plot.GREY, linewidth=width, label=label)
        published = plot.by(PUBLISHED, "method")
        for method, style in (("fast_weight_memory", "--"), ("lstm 512", "-.")):
            steps, test, _ = (plot.numbers(published[method], column) for column in COLUMNS)
            label = f"{method}, published, test graphs"
            axes.plot(steps, test, style, color=plot.GREY, label=label)
        bounds = {"shortest ways, knowing the graph": SHORTEST_WAYS, "random": AT_RANDOM}
        for name, height in bounds.items():
            axes.axhline(height, color="black", linewidth=0.8)
            axes.annotate(
                name, (1, height), (-4, 3), axes.get_yaxis_transform(), "offset points", ha="right"
            )
        axes.set_xscale("log")
        axes.set(xlabel="environment steps", ylabel="return per episode", ylim=(35, 180))
        plot.legend_below(figure)
