"""The figure of ``fwrl bench metarl``: what an episode returns, against the episodes learned from.

The axis counts environment steps, because the updates of the published agents and of other presets
learn from batches of other sizes. Curves are means of the last evaluations, as the published ones
are; the thin line behind each is every evaluation.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import matplotlib as mpl
import numpy as np

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import GREY, colours_of

mpl.use("Agg")
import matplotlib.pyplot as plt

# of the published agents, and of those who know the graphs or choose at random
UPDATES = (50, 1_000, 5_000, 10_000, 20_000, 30_000, 50_000)


TEST_RETURNS = {
    "fast_weight_memory": (45.5, 49.3, 53.5, 77.5, 96.8, 101.7, 106.2),
    "lstm 512": (45.5, 49.3, 51.4, 52.9, 52.7, 53.3, 54.2),
    "lstm 1024": (46.1, 50.1, 51.9, 53.1, 54.1, 56.8, 80.5),
    "lstm 2048": (45.5, 50.9, 52.9, 53.4, 54.9, 62.4, 82.7),
    "lstm 4096": (45.4, 50.2, 52.8, 53.3, 53.5, 55.0, 82.4),
}


TRAIN_RETURNS = {
    "fast_weight_memory": (45.8, 49.8, 55.0, 78.6, 98.4, 104.0, 109.5),
    "lstm 1024": (45.6, 50.8, 52.8, 53.9, 55.8, 60.6, 101.4),
}


STEPS_PER_UPDATE = 600 * 30


# Knowing the graph and walking the shortest ways, and choosing at random, on the test graphs.
SHORTEST_WAYS, AT_RANDOM = 165.2, 45.3


def _row(method: str, index: int) -> Row:
    row: Row = {
        "method": method,
        "updates": UPDATES[index],
        "environment_steps": UPDATES[index] * STEPS_PER_UPDATE,
        "test_return": TEST_RETURNS[method][index],
    }
    if method in TRAIN_RETURNS:
        row["train_return"] = TRAIN_RETURNS[method][index]
    return row


PUBLISHED: tuple[Row, ...] = tuple(
    _row(method, index) for method in TEST_RETURNS for index in range(len(UPDATES))
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# evaluations that a point of a curve is the mean of
WINDOW = 10
# what the lines of each colour are
LINES = (
    (f"mean of {WINDOW} evaluations, test graphs", "-", 1.5),
    ("single evaluations, test graphs", "-", 0.7),
    (f"mean of {WINDOW} evaluations, training graphs", ":", 1.2),
)


class Curve(NamedTuple):
    """Of one seed of one method, in order."""

    steps: list[float]
    test: list[float]
    train: list[float]


def curves_of(rows: Sequence[Row]) -> dict[str, list[Curve]]:
    """The curves of all seeds, by method."""
    seeds: dict[tuple[str, Any], list[Row]] = {}
    for row in rows:
        seeds.setdefault((str(row["method"]), row["seed"]), []).append(row)
    curves: dict[str, list[Curve]] = {}
    for (method, _), of_seed in seeds.items():
        ordered = sorted(of_seed, key=lambda row: float(row["updates"]))
        columns = ("environment_steps", "test_return", "train_return")
        curve = Curve(*([float(row[column]) for row in ordered] for column in columns))
        curves.setdefault(method, []).append(curve)
    return curves


def moving_average(values: Sequence[float], window: int = WINDOW) -> list[float]:
    """The mean of each value and those before it, at most ``window`` of them."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def draw(_: Any, rows: Sequence[Row], path: Path) -> None:
    """Our curves beside the published ones."""
    figure, axes = plt.subplots(figsize=(9.0, 5.2), layout="constrained")
    _draw_published(axes)
    by_method = curves_of(rows)
    for method, colour in colours_of(list(by_method)).items():
        curves = by_method[method]
        for curve in curves:
            axes.plot(curve.steps, curve.test, color=colour, alpha=0.5, linewidth=0.8)
            label = method if curve is curves[0] else None
            axes.plot(curve.steps, moving_average(curve.test), color=colour, label=label)
            training = moving_average(curve.train)
            axes.plot(curve.steps, training, ":", color=colour, linewidth=1.2)
    if rows:
        for label, style, width in LINES:
            axes.plot([], [], style, color=GREY, linewidth=width, label=label)
    for height, name in (
        (SHORTEST_WAYS, "shortest ways, knowing the graph"),
        (AT_RANDOM, "random"),
    ):
        axes.axhline(height, color="black", linewidth=0.8)
        axes.annotate(
            name, (1, height), (-4, 3), axes.get_yaxis_transform(), "offset points", ha="right"
        )
    axes.set_xscale("log")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return per episode")
    axes.set_ylim(35, 180)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(0, 0.9), fontsize=9)
    axes.set_title("Finding one's way on graphs not seen before", loc="left", fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _draw_published(axes: "Axes") -> None:
    for method, style in (("fast_weight_memory", "--"), ("lstm 512", "-.")):
        rows = [row for row in PUBLISHED if row["method"] == method]
        steps = [float(row["environment_steps"]) for row in rows]
        returns = [float(row["test_return"]) for row in rows]
        label = f"{method}, published, test graphs"
        axes.plot(steps, returns, style, color=GREY, label=label)
