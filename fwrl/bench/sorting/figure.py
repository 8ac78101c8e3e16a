"""The figure of sorting: a panel for each length, a line for each memory."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from agents.intervals import student
from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.sorting.task import SortingConfig

WINDOW = "last_window"


def draw(settings: Any, rows: list[Row], path: Path) -> None:
    """Accuracies with their intervals; lines: what a count of the last window and chance reach."""
    lengths = dict(sorted(plot.by(rows, "length").items()))
    there = plot.by(rows, "method")
    labels = {method: label for method, label in plot.LABELS.items() if method in there}
    width, height = 2.6 + 4.6 * len(lengths), 1.9 + 0.42 * max(len(labels), 2)
    title = f"Sorting {settings.symbols} symbols by frequency; 95 % intervals over seeds"
    with plot.figure(path, width, height, title) as figure:
        panels = figure.subplots(1, len(lengths), sharey=True, squeeze=False)[0]
        for axes, (length, here) in zip(panels, lengths.items(), strict=True):
            _draw_panel(axes, plot.by(here, "method"), labels)
            chance = SortingConfig(symbols=settings.symbols, length=length).chance
            axes.axvline(chance, **plot.CHANCE, label="chance")
            axes.set(xlabel="share of right answers", xlim=(0, 1.02))
            axes.set_title(f"{length} symbols before the answers")
        plot.name_rows(panels[0], list(labels.values()))
        plot.legend_below(figure, 3)


def _draw_panel(axes: Axes, rows: Mapping[str, Sequence[Row]], labels: Mapping[str, str]) -> None:
    colours = plot.colours_of(list(labels.values()))
    for height, (method, label) in enumerate(labels.items()):
        if method not in rows:
            continue
        values, colour = plot.numbers(rows[method], "accuracy"), colours[label]
        found = student(values, float(rows[method][0]["error"]))
        plot.interval(axes, found, height, colour)
        dots = [height + 0.22] * len(values)
        axes.plot(values, dots, "o", color="black", ms=3, alpha=0.6, label="each seed")
        margin = found.high - found.mean
        plot.write_beside(axes, found.high, height, f"{found.mean:.3f} ± {margin:.3f}")
    if WINDOW in rows:
        counted = rows[WINDOW]
        seen = f"a count of the last {counted[0]['window']}: all that the windows see"
        axes.axvline(
            mean(plot.numbers(counted, "accuracy")), color=plot.GREY, ls="--", lw=1.2, label=seen
        )
