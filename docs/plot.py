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

from fwrl.bench.plot import colours_of

# Metrics by what they are; others are called as they are in metrics.csv.
LABELS = {
    "rollout/ep_rew_mean": "mean training return",
    "eval/mean_reward": "mean return of evaluations",
    "eval/success_rate": "share of successful evaluations",
}


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
    runs_of = {label: runs for label, _, runs in (each.partition("=") for each in labels)}
    colours = colours_of(list(runs_of))
    for label, runs in runs_of.items():
        curves = [read(Path(run), metric) for run in runs.split(",")]
        steps = curves[0][0]
        values = np.stack([np.interp(steps, *curve) for curve in curves])
        axes.plot(steps, values.mean(0), color=colours[label], label=label, linewidth=1.8)
        if len(curves) > 1:
            axes.fill_between(
                steps, values.min(0), values.max(0), color=colours[label], alpha=0.15, linewidth=0
            )
    axes.set_xlabel("environment steps")
    axes.set_ylabel(LABELS.get(metric, metric))
    axes.xaxis.set_major_formatter(mpl.ticker.EngFormatter())
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if len(labels) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(labels), 3), frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    main()
