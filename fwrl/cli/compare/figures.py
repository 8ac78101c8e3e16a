"""The figures of a comparison: learning curves of each task, and the scores of all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, cycle
from math import isnan
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from agents.intervals import Estimate, bootstrap, student
from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.cli.compare.scores import complete_tasks, normalised, scores_of, transfer_estimates
from fwrl.cli.compare.settings import ComparisonConfig, Run, TaskConfig, folder_name
from fwrl.run.table import read_metrics

LINES = ("-", "--", ":")
# The most points of a curve with its band.
POINTS = 60
# Fewer seeds than this are drawn one by one: an interval over them says little.
FEW = 5
# The most tasks on top of each other in one panel; those behind them stand beside them.
MOST_TASKS = 14


class Style(NamedTuple):
    """The colour and the line of a column."""

    colour: str
    line: str


class Band(NamedTuple):
    """Means over seeds with the ends of their 95 % intervals by Student's distribution."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    seeds: Float[np.ndarray, "seed x"]
    """The curve of each seed."""


def draw(
    comparison: ComparisonConfig, runs: Sequence[Run], rows: Sequence[Row], out: Path
) -> list[Path]:
    """All figures of the runs that have rows; returns the files."""
    styles = _styles(comparison.columns)
    there = {(row["task"], row["column"], row["seed"]) for row in rows}
    drawn = [run for run in runs if (run.task, run.column, run.seed) in there]
    files: list[Path] = []
    for task in comparison.tasks:
        own = [run for run in drawn if run.task == task]
        if own:
            file = out / f"curves_{folder_name(task)}.png"
            _draw_curves(comparison, task, own, styles, file)
            files.append(file)
    _draw_scores(comparison, rows, styles, out / "scores.png")
    files.append(out / "scores.png")
    ranges = {task.range for task in comparison.tasks.values()}
    if len(comparison.tasks) > 1 and len(ranges) == 1 and None not in ranges:
        _draw_tasks(comparison, rows, styles, out / "tasks.png")
        files.append(out / "tasks.png")
    return files


def _styles(columns: Iterable[str]) -> dict[str, Style]:
    """A style for each column; columns of one family differ in their lines, too."""
    seen: Counter[str] = Counter()
    styles: dict[str, Style] = {}
    for column, colour in plot.colours_of(list(columns)).items():
        like = plot.family_of(column) or colour
        styles[column] = Style(colour, LINES[seen[like] % len(LINES)])
        seen[like] += 1
    return styles


def curve_metric(comparison: ComparisonConfig) -> str:
    """The metric that comes nearest to the score."""
    return "rollout/ep_rew_mean" if comparison.score == "mmer" else comparison.score


def band(curves: Sequence[Float[np.ndarray, "_ 2"]]) -> Band | None:
    """The band of some seeds' curves where all of them have points; None if that is nowhere."""
    if not all(len(curve) for curve in curves):
        return None
    first, last = max(c[0, 0] for c in curves), min(c[-1, 0] for c in curves)
    places = np.unique(np.concatenate([curve[:, 0] for curve in curves]))
    places = places[(places >= first) & (places <= last)]
    if not len(places):
        return None
    if len(places) > POINTS:
        places = np.linspace(first, last, POINTS)
    heights = np.stack([np.interp(places, *curve.T) for curve in curves], axis=1)
    mean, low, high = np.array([student(each.tolist()) for each in heights]).T
    return Band(places, mean, low, high, heights.T)


def _draw_curves(
    comparison: ComparisonConfig,
    task: str,
    runs: Sequence[Run],
    styles: Mapping[str, Style],
    file: Path,
) -> None:
    """The metric against environment steps, and against seconds of training."""
    columns = ["time/time_elapsed", curve_metric(comparison)]
    training = "mean return of training episodes"
    with plot.figure(file, 10, 4.2, task) as figure:
        panels = figure.subplots(1, 2, sharey=True)
        for column, (colour, line) in styles.items():
            tables = [read_metrics(run.directory, columns) for run in runs if run.column == column]
            for axes, x in zip(panels, (0, 1), strict=True):
                found = band([table[:, [x, 2]] for table in tables]) if tables else None
                if found is None:
                    continue
                # a single evaluation is a point
                mark = "o" if len(found.x) == 1 else None
                axes.plot(found.x, found.mean, line, color=colour, label=column, marker=mark)
                if len(found.seeds) >= FEW:
                    axes.fill_between(
                        found.x, found.low, found.high, color=colour, alpha=0.15, lw=0
                    )
                elif len(found.seeds) > 1:
                    axes.plot(found.x, found.seeds.T, line, color=colour, alpha=0.35, lw=0.8)
        for axes in panels:
            axes.set_xlim(left=0)
        plot.steps_axis(panels[0])
        panels[1].set_xlabel("seconds of training")
        panels[0].set_ylabel(training if comparison.score == "mmer" else comparison.score_in_words)
        plot.legend_below(figure, 4)


def _draw_scores(
    comparison: ComparisonConfig, rows: Sequence[Row], styles: Mapping[str, Style], file: Path
) -> None:
    """Intervals of all tasks together, where there are several, and of each by itself."""
    panels: dict[str, Mapping[str, Sequence[Sequence[float]]]] = {}
    together = complete_tasks(comparison, rows)
    if len(comparison.tasks) > 1 and together:
        title = (
            f"{len(together)} tasks together" if len(together) > 1 else f"{together[0]}, normalised"
        )
        panels[title] = normalised(comparison, rows, together)
    for task in comparison.tasks:
        own = {column: scores_of(rows, task, column) for column in comparison.columns}
        if any(own.values()):
            panels[task] = {column: [scores] for column, scores in own.items() if scores}
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    width, height = 1.4 + 2.55 * across, (0.9 + 0.28 * len(styles)) * down
    with plot.figure(file, width, height) as figure:
        grid = figure.subplots(down, across, sharey=True, squeeze=False)
        for axes, (title, groups) in zip(grid.flat, panels.items(), strict=False):
            task = comparison.tasks.get(title)
            _draw_intervals(axes, groups, styles, task.range if task else None)
            axes.set_title(title)
            label = comparison.score_in_words if task else "normalised score"
            if task and task.chance is not None:
                label += "; dotted: chance"
                axes.axvline(task.chance, **plot.CHANCE)
            axes.set_xlabel(label, fontsize=9)
        for axes in grid.flat[len(panels) :]:
            axes.set_visible(False)


def _draw_intervals(
    axes: Axes,
    groups: Mapping[str, Sequence[Sequence[float]]],
    styles: Mapping[str, Style],
    bounds: tuple[float, float] | None,
) -> None:
    """A bar from end to end of each interval, a line at its mean, a dot for each run."""
    for place, (column, style) in enumerate(styles.items()):
        if column not in groups:
            continue
        own = groups[column]
        mean, low, high = _within(bounds, own[0]) if len(own) == 1 else bootstrap(own)
        if not isnan(low):
            axes.barh(place, high - low, 0.6, low, color=style.colour, alpha=0.35)
        axes.vlines(mean, place - 0.38, place + 0.38, color=style.colour, linewidth=2.2)
        runs = [*chain(*own)]
        axes.plot(runs, [place] * len(runs), "o", color=style.colour, markersize=3)
    # bars would end where the axis does, and cut the dots there in half
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    plot.name_rows(axes, list(styles))


def _draw_tasks(
    comparison: ComparisonConfig, rows: Sequence[Row], styles: Mapping[str, Style], file: Path
) -> None:
    """All tasks on one axis, which their scores share: columns, and what others have published.

    A task without any score so far is left out.
    """
    there = {row["task"] for row in rows}
    names = [task for task in comparison.tasks if task in there]
    across = -(-len(names) // MOST_TASKS)
    panels = [names[start : start + MOST_TASKS] for start in range(0, len(names), MOST_TASKS)]
    height = 1.6 + len(panels[0]) * (0.3 + 0.12 * len(styles))
    played = f", {comparison.episodes} episodes after training"
    label = comparison.score_in_words + ("" if comparison.score == "mmer" else played)
    with plot.figure(file, 7.5 if across == 1 else 5.5 * across, height) as figure:
        grid = figure.subplots(1, across, sharex=True, squeeze=False)
        for axes, own in zip(grid.flat, panels, strict=True):
            _draw_panel(axes, comparison, rows, styles, own)
            axes.set_xlabel(label)
        if across == 1:
            plot.legend_below(grid[0, 0])
        else:
            plot.legend_below(figure, 4)


def _draw_panel(
    axes: Axes,
    comparison: ComparisonConfig,
    rows: Sequence[Row],
    styles: Mapping[str, Style],
    names: Sequence[str],
) -> None:
    """Some of the tasks, from the top down."""
    tasks = [comparison.tasks[name] for name in names]
    _draw_published(axes, comparison, tasks)
    counts: set[int] = set()
    for place, (column, style) in enumerate(styles.items()):
        shift = (place - (len(styles) - 1) / 2) * 0.7 / len(styles)
        for row, (name, task) in enumerate(zip(names, tasks, strict=True)):
            own = scores_of(rows, name, column)
            counts.add(len(own))
            if own:
                found = _within(task.range, own)
                plot.interval(axes, found, row + shift, style.colour, hollow=len(own) == 1)
            if 1 < len(own) < FEW:
                dots = [row + shift] * len(own)
                axes.plot(own, dots, "o", color="black", ms=3, alpha=0.6, label="each seed")
        if any(scores_of(rows, name, column) for name in names):
            axes.plot([], [], "o", color=style.colour, markersize=7, label=column)
    if 1 in counts:
        axes.plot([], [], "o", color=plot.GREY, mfc="white", mew=1.8, ms=7, label="a single seed")
    if counts - {0, 1}:
        axes.plot([], [], color=plot.GREY, label="95 % interval of the mean over seeds")
    for row, task in enumerate(tasks):
        if task.chance is not None:
            axes.vlines(task.chance, row - 0.42, row + 0.42, label="chance", **plot.CHANCE)
    plot.name_rows(axes, names)


def _within(
    bounds: tuple[float, float] | None, scores: Sequence[float]
) -> tuple[float, float, float]:
    """The mean and its interval, cut at the ends of the task's range unless a score is beyond."""
    mean, low, high = student(scores)
    if bounds is None:
        return mean, low, high
    return mean, max(low, min(bounds[0], *scores)), min(high, max(bounds[1], *scores))


def _draw_published(axes: Axes, comparison: ComparisonConfig, tasks: Sequence[TaskConfig]) -> None:
    names = dict.fromkeys(chain(*(task.published for task in comparison.tasks.values())))
    for name, mark in zip(names, cycle("Dx^+"), strict=False):
        at = {row: task.published[name] for row, task in enumerate(tasks) if name in task.published}
        if at:
            label = f"{name}, {comparison.published_label}"
            plot.marks(axes, [*at.values()], [*at], mark, label)


def draw_transfer(comparison: ComparisonConfig, transfer: Sequence[Row], out: Path) -> list[Path]:
    """The score of each column in each of the other environments; returns a file for each task."""
    estimates = {
        task: transfer_estimates(comparison, own)
        for task in comparison.tasks
        if (own := [row for row in transfer if row["task"] == task])
    }
    files: list[Path] = []
    for task, found in estimates.items():
        files.append(out / f"transfer_{folder_name(task)}.png")
        chance = comparison.tasks[task].chance
        title = f"{task}, evaluated elsewhere: {comparison.score_in_words}"
        title += "" if chance is None else f" (chance {chance:g})"
        columns, names = list(comparison.columns), list(comparison.transfer)
        low, high = _scale(comparison, task, estimates)
        with plot.figure(
            files[-1], 2.2 + 0.8 * len(names), 1.3 + 0.38 * len(columns), title
        ) as figure:
            axes = figure.subplots()
            pairs = [[found.get((name, column)) for name in names] for column in columns]
            scores = np.array([[each.mean if each else np.nan for each in row] for row in pairs])
            axes.imshow(scores, cmap="Blues", vmin=low, vmax=high, aspect="auto")
            for (row, place), score in np.ndenumerate(scores):
                # light on what is dark
                shade = "white" if score > low + 0.65 * (high - low) else "black"
                text = "" if np.isnan(score) else f"{score:.2f}"
                axes.text(place, row, text, ha="center", va="center", color=shade, fontsize=9)
            axes.set_xticks(range(len(names)), names)
            axes.set_yticks(range(len(columns)), columns)
            axes.tick_params(length=0)
            axes.spines[:].set_visible(False)
            axes.grid(False)
            axes.set_xlabel(comparison.transfer_label)
    return files


def _scale(
    comparison: ComparisonConfig,
    task: str,
    estimates: Mapping[str, Mapping[tuple[str, str], Estimate]],
) -> tuple[float, float]:
    """The lowest and the highest score of the colours: a task's range, or lower where scores are.

    Shares and other scores that are not negative then begin at 0, lest 0 looks like a score just
    below the range. Tasks of the same range have the same colours.
    """
    given = comparison.tasks[task].range
    like = {task} | {t for t in estimates if given and comparison.tasks[t].range == given}
    scores = [each.mean for name in like for each in estimates[name].values()]
    low, high = given or (min(scores), max(scores))
    return (min(0.0, *scores) if min(scores) < low else low), high
