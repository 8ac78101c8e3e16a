"""The figure of language modelling: the validation text over training, the test text at its end."""

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from fwrl.bench.benchmark import Row
from fwrl.bench.lm_published import PUBLISHED

# Colour-blind safe (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#999999")
LINES = {"carried": "-", "reset": "--"}
Line = tuple[str, str]


def draw(settings: Any, rows: Sequence[Row], path: Path) -> None:
    """All rows that there are: means over seeds, and the range from the lowest to the highest."""
    column = "bits" if settings.level == "byte" else "perplexity"
    unit = "bits per byte" if settings.level == "byte" else "perplexity per word"
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    curve, final, published = figure.subplots(1, 3, width_ratios=(1.4, 1, 1))
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    colours = {m: COLOURS[i % len(COLOURS)] for i, m in enumerate(methods)}
    _draw_curves(curve, [row for row in rows if row["split"] == "valid"], column, colours)
    curve.set(xlabel="training tokens, millions", ylabel=unit)
    curve.set_title("validation, while training", fontsize=10)
    _draw_final(final, [row for row in rows if row["split"] == "test"], column, colours)
    final.set_xlabel(unit)
    final.set_title("test, after training", fontsize=10)
    _draw_published(published)
    handles, labels = curve.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    seeds = len({row["seed"] for row in rows})
    about = f"{rows[0]['corpus']}, {rows[0]['parameters']:,} parameters or nearly so"
    figure.suptitle(f"{about}; mean and range of seeds ({seeds})", fontsize=10)
    figure.savefig(path, dpi=150)


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
    axes.grid(alpha=0.3)


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
    axes.set_yticks(range(len(names)), names, fontsize=7)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)


def _readings(rows: Sequence[Row]) -> list[tuple[str, str]]:
    found = dict.fromkeys(str(row["reading"]) for row in rows)
    return [(reading, "o" if reading == "segments" else "s") for reading in sorted(found)]


def _draw_published(axes: Axes) -> None:
    rows = [
        row
        for row in PUBLISHED
        if (row["corpus"], row.get("size"), row["state"]) == ("wikitext-103", "small", "reset")
        and row["source"] == "Schlag et al. 2021"
    ]
    names = [str(row["model"]) for row in rows]
    axes.scatter([float(row["test"]) for row in rows], range(len(rows)), color="#777777")
    axes.set_yticks(range(len(rows)), names, fontsize=7)
    axes.set_xlabel("perplexity per word")
    axes.set_title("published: WikiText-103, small", fontsize=10)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
