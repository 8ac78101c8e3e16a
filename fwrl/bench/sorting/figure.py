"""The figure of sorting: a panel for each length, a line for each memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import COLOURS, GREY, interval
from fwrl.bench.sorting.task import SortingConfig

WINDOW = "last_window"
LABELS = {
    "infinite_former_sticky": "infinite-former, sticky",
    "infinite_former": "infinite-former",
    "window_attention": "windowed attention",
    "sum": "fast weights, sum",
    "delta": "fast weights, delta",
    "gated_delta": "fast weights, gated delta",
    "lstm": "LSTM",
    "none": "no memory",
}
COLOUR = COLOURS[0]


def draw(settings: Any, rows: list[Row], path: Path) -> None:
    """Accuracies with their intervals; grey: what a count of the last window and chance reach."""
    lengths = sorted({int(row["length"]) for row in rows})
    methods = [name for name in LABELS if any(row["method"] == name for row in rows)]
    figure, panels = plt.subplots(
        1,
        len(lengths),
        sharey=True,
        squeeze=False,
        figsize=(2.6 + 4.6 * len(lengths), 1.9 + 0.42 * max(len(methods), 2)),
        layout="constrained",
    )
    for axes, length in zip(panels[0], lengths, strict=True):
        here = [row for row in rows if row["length"] == length]
        _panel(axes, here, methods)
        chance = SortingConfig(symbols=settings.symbols, length=length).chance
        axes.axvline(chance, color=GREY, linestyle="dotted", linewidth=1.2, label="chance")
        axes.set_title(f"{length} symbols before the answers", loc="left", fontsize=10)
        axes.set_xlabel("share of right answers")
        axes.set_xlim(0, 1.02)
    panels[0][0].set_yticks(range(len(methods)), [LABELS[name] for name in methods])
    panels[0][0].invert_yaxis()
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        fontsize=9,
    )
    figure.suptitle(
        f"Sorting {settings.symbols} symbols by frequency; 95 % intervals over seeds", fontsize=10
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axes: Axes, rows: Sequence[Row], methods: Sequence[str]) -> None:
    axes.grid(axis="x", color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_ylim(-0.6, len(methods) - 0.4)
    axes.spines[["top", "right"]].set_visible(False)
    named = False
    for height, method in enumerate(methods):
        seeds = [row for row in rows if row["method"] == method]
        if not seeds:
            continue
        values = [float(row["accuracy"]) for row in seeds]
        mean, margin = interval(values, float(seeds[0]["error"]))
        axes.errorbar(
            mean, height, xerr=margin, fmt="o", color=COLOUR, capsize=4, markersize=7, linewidth=2
        )
        axes.plot(
            values,
            [height + 0.22] * len(values),
            "o",
            color=COLOUR,
            markersize=3,
            alpha=0.6,
            label=None if named else "each seed",
        )
        named = True
        axes.annotate(
            f"{mean:.3f} ± {margin:.3f}",
            (mean, height),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5},
        )
    counted = [row for row in rows if row["method"] == WINDOW]
    if counted:
        mean = sum(float(row["accuracy"]) for row in counted) / len(counted)
        seen = f"a count of the last {counted[0]['window']}: all that the windows see"
        axes.axvline(mean, color=GREY, linestyle="dashed", linewidth=1.2, label=seen)
