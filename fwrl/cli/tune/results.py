"""The files of a search: trials.csv, best.yaml and a figure."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import yaml

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fwrl.bench.benchmark import Row
from fwrl.bench.results import write_rows
from fwrl.cli.tune.settings import Dimension, TuningConfig, best_values
from fwrl.cli.tune.study import FOLDER, REASON
from fwrl.files.plain_files import replace_plain

TRIALS, BEST, FIGURE = "trials.csv", "best.yaml", "trials.png"
COMPLETE, PRUNED = "complete", "pruned"
COLOURS = {COMPLETE: "#0072b2", PRUNED: "#d55e00"}
# Panels in a row of the figure.
ACROSS = 3


def write_results(tuning: TuningConfig, trials: Sequence[Any], out: Path) -> list[Path]:
    """Write the results so far; returns the files."""
    rows = [_row(trial) for trial in trials]
    write_rows(out / TRIALS, rows)
    files = [out / TRIALS]
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if complete:
        best = max(complete, key=lambda trial: trial.value)
        comment = f"# trial {best.number} of {len(trials)}: {tuning.metric} {best.value:.4g}\n"
        text = yaml.safe_dump(best_values(tuning, best.params), sort_keys=False)
        replace_plain(out / BEST, f"{comment}{text}".encode())
        files.append(out / BEST)
    if any("value" in row for row in rows):
        _draw(tuning, rows, out / FIGURE)
        files.append(out / FIGURE)
    return files


def _row(trial: Any) -> Row:
    """A row of trials.csv; the value of a pruned trial is that of its last evaluation."""
    reported = trial.intermediate_values
    value = trial.value if trial.value is not None else reported.get(max(reported, default=0))
    row: Row = {"trial": trial.number, "state": trial.state.name.lower()}
    if value is not None:
        row["value"] = value
    row |= {key: _cell(each) for key, each in trial.params.items()}
    row["runs"] = f"trials/{trial.user_attrs[FOLDER]}"
    if REASON in trial.user_attrs:
        row["reason"] = trial.user_attrs[REASON]
    return row


def _cell(value: Any) -> str | int | float:
    return value if isinstance(value, int | float | str) else str(value)


def _draw(tuning: TuningConfig, rows: Sequence[Row], file: Path) -> None:
    """Draw the values in the order of the trials, and against each key of the space."""
    count = 1 + len(tuning.space)
    across = min(count, ACROSS)
    down = -(-count // across)
    figure, grid = plt.subplots(
        down, across, figsize=(3.6 * across, 3.0 * down), squeeze=False, layout="constrained"
    )
    panels = list(grid.flat)
    _draw_history(panels[0], rows)
    for axes, (key, dimension) in zip(panels[1:], tuning.space.items(), strict=False):
        _draw_slice(axes, rows, key, dimension)
    for axes in panels:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[count:]:
        axes.set_visible(False)
    for line in grid:
        line[0].set_ylabel(tuning.metric)
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False
    )
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _of_state(rows: Sequence[Row], state: str) -> list[Row]:
    return [row for row in rows if row["state"] == state and "value" in row]


def _draw_history(axes: Axes, rows: Sequence[Row]) -> None:
    for state in (COMPLETE, PRUNED):
        own = _of_state(rows, state)
        if own:
            _dots(axes, [float(row["trial"]) for row in own], own, state)
    complete = _of_state(rows, COMPLETE)
    if complete:
        highest = np.maximum.accumulate([float(row["value"]) for row in complete])
        numbers = [int(row["trial"]) for row in complete]
        axes.step(numbers, highest, where="post", color="black", linewidth=1, label="best so far")
    axes.set_xlabel("trial")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_slice(axes: Axes, rows: Sequence[Row], key: str, dimension: Dimension) -> None:
    places = _places(dimension)
    for state in (COMPLETE, PRUNED):
        own = [row for row in _of_state(rows, state) if key in row]
        x = [float(places[str(row[key])] if places else row[key]) for row in own]
        _dots(axes, x, own, state)
    if places:
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif dimension.log:
        axes.set_xscale("log")
    axes.set_xlabel(key)


def _places(dimension: Dimension) -> Mapping[str, int]:
    """Positions of choices on the axis, in the order of their list; empty for a range."""
    return {str(choice): place for place, choice in enumerate(dimension.choices or ())}


def _dots(axes: Axes, x: Sequence[float], rows: Sequence[Row], state: str) -> None:
    values = [float(row["value"]) for row in rows]
    mark = "o" if state == COMPLETE else "x"
    axes.plot(x, values, mark, color=COLOURS[state], markersize=5, alpha=0.8, label=state)
