"""The figures of a comparison: learning curves of each task, and the scores of all."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, cycle
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import GREY, colours_of, family_of
from fwrl.cli.compare.scores import (
    Estimate,
    complete_tasks,
    estimate,
    normalised,
    scores_of,
    transfer_estimates,
)
from fwrl.cli.compare.settings import ComparisonConfig, Run, folder_name
from fwrl.run.log import read_metrics

LINES = ("-", "--", ":")
# Of a curve with its band.
POINTS = 60


class Style(NamedTuple):
    """How a column is drawn."""

    colour: str
    line: str


class Band(NamedTuple):
    """Interquartile means over seeds, and their 95 % bootstrap intervals."""

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


class Panel(NamedTuple):
    """Intervals of some columns."""

    title: str
    label: str
    groups: Mapping[str, Sequence[Sequence[float]]]
    """The scores of each column, by task."""
    chance: float | None


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
    """Those of a family differ in their lines, too."""
    seen: Counter[str] = Counter()
    styles: dict[str, Style] = {}
    for column, colour in colours_of(list(columns)).items():
        like = family_of(column) or colour
        styles[column] = Style(colour, LINES[seen[like] % len(LINES)])
        seen[like] += 1
    return styles


def curve_metric(comparison: ComparisonConfig) -> str:
    """The metric that comes nearest to the score."""
    return "rollout/ep_rew_mean" if comparison.score == "mmer" else comparison.score


def band(curves: Sequence[Float[np.ndarray, "_ 2"]]) -> Band | None:
    """Of the curves of some seeds, where all of them have been; None where that is nowhere."""
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
    return Band(places, *np.array([estimate([each.tolist()]) for each in heights]).T)


def _draw_curves(
    comparison: ComparisonConfig,
    task: str,
    runs: Sequence[Run],
    styles: Mapping[str, Style],
    file: Path,
) -> None:
    """The metric against environment steps, and against seconds of training."""
    metric = curve_metric(comparison)
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.2), sharey=True, layout="constrained")
    for column, style in styles.items():
        tables = [
            read_metrics(run.directory, ["time/time_elapsed", metric])
            for run in runs
            if run.column == column
        ]
        if not tables:
            continue
        _draw_band(left, band([table[:, [0, 2]] for table in tables]), style, column)
        _draw_band(right, band([table[:, [1, 2]] for table in tables]), style, None)
    left.set_xlabel("environment steps")
    left.xaxis.set_major_formatter(EngFormatter())
    right.set_xlabel("seconds of training")
    training = "mean return of training episodes"
    left.set_ylabel(training if comparison.score == "mmer" else comparison.score_in_words)
    for axes in (left, right):
        axes.set_xlim(left=0)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(task, x=0.01, ha="left", fontsize=11)
    if left.lines:
        figure.legend(loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _draw_band(axes: Axes, found: Band | None, style: Style, label: str | None) -> None:
    if found is None:
        return
    colour, line = style
    # a single evaluation is a point
    mark = "o" if len(found.x) == 1 else None
    axes.plot(found.x, found.mean, line, color=colour, label=label, linewidth=1.8, marker=mark)
    axes.fill_between(found.x, found.low, found.high, color=colour, alpha=0.15, linewidth=0)


def _draw_scores(
    comparison: ComparisonConfig, rows: Sequence[Row], styles: Mapping[str, Style], file: Path
) -> None:
    """Intervals of all tasks together, where there are several, and of each by itself."""
    panels = _panels(comparison, rows)
    across = min(len(panels), 3)
    down = -(-len(panels) // across)
    figure, grid = plt.subplots(
        down,
        across,
        figsize=(1.4 + 2.55 * across, (0.9 + 0.28 * len(styles)) * down),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, panel in zip(grid.flat, panels, strict=False):
        _draw_intervals(axes, panel.groups, styles)
        axes.set_title(panel.title, loc="left", fontsize=10)
        axes.set_xlabel(panel.label, fontsize=9)
        if panel.chance is not None:
            axes.set_xlabel(f"{panel.label}; dotted: chance", fontsize=9)
            axes.axvline(panel.chance, color="black", linestyle=":", linewidth=1.4)
    for axes in grid.flat[len(panels) :]:
        axes.set_visible(False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _panels(comparison: ComparisonConfig, rows: Sequence[Row]) -> list[Panel]:
    panels: list[Panel] = []
    together = complete_tasks(comparison, rows)
    if len(comparison.tasks) > 1 and together:
        title = f"{len(together)} tasks together" if len(together) > 1 else together[0]
        scaled = normalised(comparison, rows, together)
        panels.append(Panel(title, "normalised score", scaled, None))
    for task in comparison.tasks:
        own = {column: scores_of(rows, task, column) for column in comparison.columns}
        groups = {column: [scores] for column, scores in own.items() if scores}
        if groups:
            chance = comparison.tasks[task].chance
            panels.append(Panel(task, comparison.score_in_words, groups, chance))
    return panels


def _draw_tasks(
    comparison: ComparisonConfig, rows: Sequence[Row], styles: Mapping[str, Style], file: Path
) -> None:
    """All tasks on one axis, which their scores share: columns, and what others have published."""
    names = list(comparison.tasks)
    figure, axes = plt.subplots(
        figsize=(7.5, 1.6 + len(names) * (0.3 + 0.12 * len(styles))), layout="constrained"
    )
    _mark_published(axes, comparison)
    counts: set[int] = set()
    for place, (column, style) in enumerate(styles.items()):
        shift = (place - (len(styles) - 1) / 2) * 0.7 / len(styles)
        scores = {row + shift: scores_of(rows, task, column) for row, task in enumerate(names)}
        counts |= set(map(len, scores.values()))
        _mark_column(axes, {height: own for height, own in scores.items() if own}, style, column)
    if 1 in counts:
        axes.plot([], [], "o", color=GREY, mfc="white", mew=1.8, ms=7, label="a single seed")
    if counts - {0, 1}:
        axes.plot([], [], color=GREY, linewidth=2, label="95 % interval over seeds")
    chances = {row: each.chance for row, each in enumerate(comparison.tasks.values())}
    marked = {row: chance for row, chance in chances.items() if chance is not None}
    if marked:
        low, high = ([row + side for row in marked] for side in (-0.42, 0.42))
        axes.vlines([*marked.values()], low, high, "black", ":", label="chance", linewidth=1.6)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    played = f", {comparison.episodes} episodes after training"
    axes.set_xlabel(comparison.score_in_words + ("" if comparison.score == "mmer" else played))
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(file, dpi=150)
    plt.close(figure)


def _mark_published(axes: Axes, comparison: ComparisonConfig) -> None:
    tasks = list(comparison.tasks.values())
    for name, mark in zip(
        dict.fromkeys(chain(*(each.published for each in tasks))), cycle("Dx^+"), strict=False
    ):
        at = {row: each.published.get(name) for row, each in enumerate(tasks)}
        there = {row: score for row, score in at.items() if score is not None}
        # behind what was measured here
        axes.plot(
            [*there.values()],
            [*there],
            mark,
            color=GREY,
            fillstyle="none",
            label=f"{name}, {comparison.published_label}",
            zorder=1,
        )


def _mark_column(
    axes: Axes, scores: Mapping[float, Sequence[float]], style: Style, label: str
) -> None:
    """A point and its interval at each height; a single seed has none, and its point is hollow."""
    for height, own in scores.items():
        found, single = estimate([own]), len(own) == 1
        axes.plot(
            found.mean,
            height,
            "o",
            color=style.colour,
            markerfacecolor="white" if single else style.colour,
            markeredgewidth=1.8 if single else 1.0,
            markersize=7,
        )
        axes.hlines(height, found.low, found.high, color=style.colour, linewidth=2, zorder=1)
    if scores:
        axes.plot([], [], "o", color=style.colour, markersize=7, label=label)


def draw_transfer(comparison: ComparisonConfig, transfer: Sequence[Row], out: Path) -> list[Path]:
    """The score of each column in each of the other environments; returns a file for each task."""
    estimates = {
        task: transfer_estimates(comparison, own)
        for task in comparison.tasks
        if (own := [row for row in transfer if row["task"] == task])
    }
    files: list[Path] = []
    for task, found in estimates.items():
        scores = np.array(
            [
                [found[name, column].mean if (name, column) in found else np.nan]
                for column in comparison.columns
                for name in comparison.transfer
            ]
        ).reshape(len(comparison.columns), -1)
        figure, axes = plt.subplots(
            figsize=(2.2 + 0.8 * scores.shape[1], 1.3 + 0.38 * scores.shape[0]),
            layout="constrained",
        )
        low, high = _scale(comparison, task, estimates)
        axes.imshow(scores, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for (row, place), score in np.ndenumerate(scores):
            # light on what is dark
            shade = "white" if score > low + 0.65 * (high - low) else "black"
            text = "" if np.isnan(score) else f"{score:.2f}"
            axes.text(place, row, text, ha="center", va="center", color=shade, fontsize=9)
        axes.set_xticks(range(scores.shape[1]), list(comparison.transfer))
        axes.set_yticks(range(scores.shape[0]), list(comparison.columns))
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.set_xlabel(comparison.transfer_label)
        chance = comparison.tasks[task].chance
        title = f"{task}, evaluated elsewhere: {comparison.score_in_words}"
        title += "" if chance is None else f" (chance {chance:g})"
        figure.suptitle(title, x=0.01, ha="left", fontsize=10)
        files.append(out / f"transfer_{folder_name(task)}.png")
        figure.savefig(files[-1], dpi=150)
        plt.close(figure)
    return files


def _scale(
    comparison: ComparisonConfig,
    task: str,
    estimates: Mapping[str, Mapping[tuple[str, str], Estimate]],
) -> tuple[float, float]:
    """From where to where colours go: below a task's range, too, where there are scores.

    Shares and other scores that are not negative then begin at 0, lest 0 looks like what is just
    below the range. Tasks of the same range have the same colours.
    """
    given = comparison.tasks[task].range
    like = {task} | {t for t in estimates if given and comparison.tasks[t].range == given}
    scores = [each.mean for name in like for each in estimates[name].values()]
    low, high = given or (min(scores), max(scores))
    return (min(0.0, *scores) if min(scores) < low else low), high


def _draw_intervals(
    axes: Axes, groups: Mapping[str, Sequence[Sequence[float]]], styles: Mapping[str, Style]
) -> None:
    """A bar from end to end of each interval, a line at its mean, a dot for each run."""
    for place, (column, style) in enumerate(styles.items()):
        if column not in groups:
            continue
        found = estimate(groups[column])
        axes.barh(
            place, found.high - found.low, 0.6, found.low, color=style.colour, alpha=0.35, zorder=2
        )
        axes.vlines(found.mean, place - 0.38, place + 0.38, color=style.colour, linewidth=2.2)
        runs = [score for group in groups[column] for score in group]
        axes.plot(runs, [place] * len(runs), "o", color=style.colour, markersize=3, zorder=3)
    # bars would end where the axis does, and cut the dots there in half
    axes.use_sticky_edges = False
    axes.margins(x=0.06)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_yticks(range(len(styles)), list(styles))
    axes.set_ylim(len(styles) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
