"""Draws a metric of several runs: ``python docs/plot.py OUT.png METRIC LABEL=RUN[,RUN...] ...``.

The runs of one label are seeds: their mean is drawn, and the range from the lowest to the highest.
"""

import csv
import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = ["#1f4e9c", "#c2571a", "#3a7d44", "#7a4fa3", "#8a8a8a", "#b8860b"]


def read(run: Path, metric: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Steps and values of a metric, where it was recorded."""
    with (run / "metrics.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[metric]]
    return np.array([float(row["step"]) for row in rows]), np.array(
        [float(r[metric]) for r in rows]
    )


def main() -> None:
    """One line per label."""
    out, metric, *labels = sys.argv[1:]
    figure, axes = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for colour, argument in zip(COLOURS, labels, strict=False):
        label, _, runs = argument.partition("=")
        curves = [read(Path(run), metric) for run in runs.split(",")]
        steps = curves[0][0]
        values = np.stack([np.interp(steps, *curve) for curve in curves])
        axes.plot(steps, values.mean(0), color=colour, label=label, linewidth=1.8)
        if len(curves) > 1:
            axes.fill_between(
                steps, values.min(0), values.max(0), color=colour, alpha=0.15, linewidth=0
            )
    axes.set_xlabel("environment steps")
    axes.set_ylabel(metric)
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(labels) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(labels), 3), frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
