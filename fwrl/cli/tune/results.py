"""The files of a search: trials.csv, best.yaml and a figure."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.results import write_rows
from fwrl.cli.tune.settings import Dimension, TuningConfig, best_values
from fwrl.cli.tune.study import REASON, folder_of
from fwrl.files.plain_files import replace_plain

TRIALS, BEST, FIGURE = "trials.csv", "best.yaml", "trials.png"
COMPLETE, PRUNED = "complete", "pruned"
# The colour and the mark of trials that ended so.
STYLES = {COMPLETE: (plot.COLOURS[0], "o"), PRUNED: (plot.COLOURS[1], "x")}
# The most panels side by side.
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
    row["runs"] = f"trials/{folder_of(trial)}"
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
    rows = [row for row in rows if "value" in row]
    with plot.figure(file, 3.6 * across, 3.0 * down) as figure:
        grid = figure.subplots(down, across, squeeze=False)
        panels = list(grid.flat)
        _draw_history(panels[0], rows)
        for axes, (key, dimension) in zip(panels[1:], tuning.space.items(), strict=False):
            _draw_slice(axes, rows, key, dimension)
        for axes in panels[count:]:
            axes.set_visible(False)
        for line in grid:
            line[0].set_ylabel(tuning.metric)
        plot.legend_below(figure, 3)


def _draw_history(axes: Axes, rows: Sequence[Row]) -> None:
    _draw_values(axes, rows, "trial")
    complete = plot.by(rows, "state").get(COMPLETE)
    if complete:
        highest = np.maximum.accumulate(plot.numbers(complete, "value"))
        trials = plot.numbers(complete, "trial")
        axes.step(trials, highest, where="post", color="black", linewidth=1, label="best so far")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_slice(axes: Axes, rows: Sequence[Row], key: str, dimension: Dimension) -> None:
    # choices have no other order on the axis than that of their list
    places = {str(choice): place for place, choice in enumerate(dimension.choices or ())}
    if places:
        rows = [{**row, key: places[str(row[key])]} for row in rows if key in row]
        axes.set_xticks(list(places.values()), list(places))
        axes.set_xlim(-0.5, len(places) - 0.5)
    elif dimension.log:
        axes.set_xscale("log")
    _draw_values(axes, rows, key)


def _draw_values(axes: Axes, rows: Sequence[Row], key: str) -> None:
    states = plot.by([row for row in rows if key in row], "state")
    for state, (colour, mark) in STYLES.items():
        own = states.get(state, [])
        axes.plot(
            plot.numbers(own, key),
            plot.numbers(own, "value"),
            mark,
            color=colour,
            alpha=0.8,
            label=state,
        )
    axes.set_xlabel(key)
