"""The figure of language modelling: the validation text over training, the test text at its end."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import colours_of

LINES = {"carried": "-", "reset": "--"}
Line = tuple[str, str]


def draw(settings: Any, rows: Sequence[Row], path: Path) -> None:
    """All rows that there are: means over seeds, and the range from the lowest to the highest."""
    column = "bits" if settings.level == "byte" else "perplexity"
    unit = "bits per byte" if settings.level == "byte" else "perplexity per word"
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    curve, final = figure.subplots(1, 2, width_ratios=(1.4, 1))
    colours = colours_of(list(dict.fromkeys(str(row["method"]) for row in rows)))
    _draw_curves(curve, [row for row in rows if row["split"] == "valid"], column, colours)
    curve.set(xlabel="training tokens, millions", ylabel=unit)
    curve.set_title("validation text, while training", loc="left", fontsize=10)
    _draw_final(final, [row for row in rows if row["split"] == "test"], column, colours)
    final.set_xlabel(unit)
    final.set_title("test text, after training", loc="left", fontsize=10)
    for axes in (curve, final):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    handles, labels = curve.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.suptitle(_about(rows), fontsize=11)
    figure.savefig(path, dpi=120)


def _about(rows: Sequence[Row]) -> str:
    """The text without its checksum, the size to three digits, and how many seeds."""
    name = str(rows[0]["corpus"]).split(" ")[0]
    if name.startswith("python-"):
        name = f"Python {name.removeprefix('python-')} standard library"
    size = int(float(f"{float(rows[0]['parameters']):.3g}"))
    seeds = len({row["seed"] for row in rows})
    over = "one seed" if seeds == 1 else f"mean and range of {seeds} seeds"
    return f"{name}, about {size:,} parameters; {over}"


def _lines_in(rows: Sequence[Row]) -> list[Line]:
    return list(dict.fromkeys((str(row["method"]), str(row["state"])) for row in rows))


def _draw_curves(axes: Axes, rows: Sequence[Row], column: str, colours: dict[str, str]) -> None:
    lowest = min((float(row[column]) for row in rows), default=0.0)
    for method, state in _lines_in(rows):
        at: dict[float, list[float]] = {}
        for row in rows:
            if (row["method"], row["state"]) == (method, state):
                at.setdefault(float(row["tokens"]) / 1e6, []).append(float(row[column]))
        x = sorted(at)
        colour, label = colours[method], f"{method}; state {state}"
        axes.plot(x, [mean(at[t]) for t in x], LINES[state], color=colour, label=label)
        low, high = [min(at[t]) for t in x], [max(at[t]) for t in x]
        axes.fill_between(x, low, high, color=colour, alpha=0.2, linewidth=0)
    if rows:
        last = max(float(row["tokens"]) for row in rows)
        ends = [float(row[column]) for row in rows if float(row["tokens"]) > 0.1 * last]
        # what is lost before a tenth of the training would hide the rest
        axes.set_ylim(lowest - 0.05 * (max(ends) - lowest) - 1e-3, max(ends) * 1.02)


def _draw_final(axes: Axes, rows: Sequence[Row], column: str, colours: dict[str, str]) -> None:
    lines, names = _lines_in(rows), list[str]()
    for method, state in lines:
        for reading, marker in _readings(rows):
            found = [
                float(row[column])
                for row in rows
                if (row["method"], row["state"], row["reading"]) == (method, state, reading)
            ]
            if not found:
                continue
            filled = colours[method] if marker == "o" else "white"
            axes.plot([min(found), max(found)], [len(names)] * 2, color=colours[method], zorder=1)
            axes.scatter(
                [mean(found)], [len(names)], marker=marker, edgecolors=colours[method], c=filled
            )
            how = f"state {state}" if reading == "segments" else f"{reading}, {state}"
            names.append(f"{method}\n{how}")
    axes.set_yticks(range(len(names)), names, fontsize=9)
    axes.margins(y=0.5 / max(len(names), 1))
    axes.invert_yaxis()


def _readings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys(str(row["reading"]) for row in rows)
    return [(reading, "o" if reading == "segments" else "s") for reading in sorted(found)]
