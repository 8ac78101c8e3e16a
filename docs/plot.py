"""Draws a metric of several runs: ``python docs/plot.py OUT.png METRIC LABEL=RUN[,RUN...] ...``.

The runs of one label are seeds: their mean is drawn, and the range from the lowest to the highest.
"""

import sys
from pathlib import Path

import numpy as np

from fwrl.bench import plot
from fwrl.run.table import read_metrics

# The words for some metrics; others are called as in metrics.csv.
LABELS = {
    "rollout/ep_rew_mean": "mean training return",
    "eval/mean_reward": "mean return of evaluations",
    "eval/success_rate": "share of successful evaluations",
}


def main() -> None:
    """One line per label."""
    out, metric, *labels = sys.argv[1:]
    runs_of = {
        label: runs.split(",") for label, _, runs in (each.partition("=") for each in labels)
    }
    with plot.figure(Path(out), 7.5, 4.2) as figure:
        axes = figure.subplots()
        for (label, colour), runs in zip(
            plot.colours_of(list(runs_of)).items(), runs_of.values(), strict=True
        ):
            curves = [read_metrics(Path(run), [metric]).T for run in runs]
            steps = curves[0][0]
            seeds = np.stack([np.interp(steps, *curve) for curve in curves], axis=1)
            values = dict(zip(steps.tolist(), seeds.tolist(), strict=True))
            plot.curve(axes, values, colour, label if len(labels) > 1 else None)
        plot.steps_axis(axes)
        axes.set_ylabel(LABELS.get(metric, metric))
        plot.legend_below(figure, 2)


if __name__ == "__main__":
    main()
