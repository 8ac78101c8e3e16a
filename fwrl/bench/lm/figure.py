"""The figure of language modelling: the validation text over training, the test text at its end."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from fwrl.bench import plot
from fwrl.bench.benchmark import Row

LINES = {"carried": "-", "reset": "--"}


def draw(settings: Any, rows: Sequence[Row], path: Path) -> None:
    """Means over seeds, and the range from the lowest to the highest."""
    column = "bits" if settings.level == "byte" else "perplexity"
    unit = "bits per byte" if settings.level == "byte" else "perplexity per word"
    colours = plot.colours_of(list(plot.by(rows, "method")))
    splits = plot.by(rows, "split")
    with plot.figure(path, 9, 4.2, _title(rows)) as figure:
        curve, final = figure.subplots(1, 2, width_ratios=(1.4, 1))
        _draw_curves(curve, splits.get("valid", []), column, colours)
        curve.set(xlabel="training tokens, millions", ylabel=unit)
        curve.set_title("validation text, while training")
        _draw_final(final, splits.get("test", []), column, colours)
        final.set_xlabel(unit)
        final.set_title("test text, after training")
        plot.legend_below(figure, 4)


def _title(rows: Sequence[Row]) -> str:
    """The text without its checksum, the size to three digits, and how many seeds."""
    name = str(rows[0]["corpus"]).split(" ")[0]
    if name.startswith("python-"):
        name = f"Python {name.removeprefix('python-')} standard library"
    size = int(float(f"{float(rows[0]['parameters']):.3g}"))
    seeds = len(plot.by(rows, "seed"))
    over = "one seed" if seeds == 1 else f"mean and range of {seeds} seeds"
    return f"{name}, about {size:,} parameters; {over}"


def _draw_curves(axes: Axes, rows: Sequence[Row], column: str, colours: Mapping[str, str]) -> None:
    for method, of_method in plot.by(rows, "method").items():
        for state, own in plot.by(of_method, "state").items():
            values = {
                int(t) / 1e6: plot.numbers(seeds, column)
                for t, seeds in plot.by(own, "tokens").items()
            }
            plot.curve(axes, values, colours[method], f"{method}; state {state}", LINES[state])
    if rows:
        last = max(plot.numbers(rows, "tokens"))
        lowest = min(plot.numbers(rows, column))
        highest = max(float(row[column]) for row in rows if float(row["tokens"]) > 0.1 * last)
        # losses before a tenth of the training would hide the rest
        axes.set_ylim(lowest - 0.05 * (highest - lowest) - 1e-3, highest * 1.02)


def _draw_final(axes: Axes, rows: Sequence[Row], column: str, colours: Mapping[str, str]) -> None:
    names: list[str] = []
    for method, of_method in plot.by(rows, "method").items():
        for state, own in plot.by(of_method, "state").items():
            for reading, seeds in sorted(plot.by(own, "reading").items()):
                found = plot.numbers(seeds, column)
                segments = reading == "segments"
                marker, how = ("o", "state") if segments else ("s", f"{reading},")
                estimate = mean(found), min(found), max(found)
                plot.interval(
                    axes, estimate, len(names), colours[method], marker, hollow=not segments
                )
                names.append(f"{method}\n{how} {state}")
    plot.name_rows(axes, names)
