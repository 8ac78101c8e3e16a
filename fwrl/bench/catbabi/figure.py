"""The figure of catbAbI: how answers are learned, and the test by family of stories."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from statistics import mean
from typing import Any

from matplotlib.axes import Axes

from fwrl.bench import plot
from fwrl.bench.benchmark import Row
from fwrl.bench.results import read_published

ALONE = "question_alone"
LABELS = plot.LABELS | {ALONE: "the question alone"}
COLOURS = plot.colours_of(list(LABELS)) | {ALONE: plot.GREY}
MARKERS = dict(zip(LABELS, cycle(plot.MARKERS), strict=False))
# The beginning of the columns with the accuracy in one family of stories.
FAMILY = "of_"
# Schlag et al. (2021) on bAbI's own stories; ours are others.
PUBLISHED = read_published("catbabi")

# Our counterpart of a published method with another name.
COUNTERPARTS = {"Transformer-XL": "window_attention"}


def draw(settings: Any, rows: list[Row], path: Path) -> None:
    """Two panels side by side for each mode."""
    modes = [mode for mode in settings.modes if any(row["mode"] == mode for row in rows)]
    modes = modes or [str(rows[0]["mode"])]
    families = list(dict.fromkeys(key for row in rows for key in row if key.startswith(FAMILY)))
    height = len(modes) * (1.6 + 0.27 * (len(families) + 1))
    data = "bAbI" if settings.data else "synthetic stories, not bAbI"
    with plot.figure(path, 10.5, height, f"Answers in a stream of stories ({data})") as figure:
        grid = figure.subplots(len(modes), 2, squeeze=False, width_ratios=(1, 1.25))
        for (learning, test), mode in zip(grid, modes, strict=True):
            here = [row for row in rows if row["mode"] == mode or row["method"] == ALONE]
            by_split = plot.by(here, "split")
            valid = plot.by(by_split.get("valid", []), "method")
            for method, label in LABELS.items():
                curves = valid.get(method, [])
                plot.seeds(learning, curves, "step", "accuracy", COLOURS[method], label)
            learning.set(xlabel="updates", ylabel="right answers, validation", ylim=(0, 1))
            loss = "answers alone" if mode == "qm" else "every next word"
            learning.set_title(f"{mode.upper()} mode: trained on {loss}")
            _draw_test(test, plot.by(by_split.get("test", []), "method"), families, mode)
        plot.legend_below(figure, 4)


def _draw_test(
    axes: Axes, rows: Mapping[str, Sequence[Row]], families: Sequence[str], mode: str
) -> None:
    """A mark for each memory in each family of stories, and hollow ones for published scores."""
    for method, seeds in rows.items():
        found = [plot.numbers(seeds, column) for column in ("accuracy", *families)]
        heights = [height for height, values in enumerate(found, 1) if values]
        means = [mean(values) for values in found if values]
        colour, marker = COLOURS[method], MARKERS[method]
        axes.plot(means, heights, marker, color=colour, ms=6, label=LABELS[method], alpha=0.9)
    for row in PUBLISHED:
        ours = COUNTERPARTS.get(str(row["method"]), str(row["method"]))
        if row["mode"] != mode:
            continue
        score = [float(row["accuracy"])]
        if ours in LABELS:
            plot.marks(axes, score, [0], MARKERS[ours], "", COLOURS[ours])
        else:
            plot.marks(axes, score, [0], "*", f"{row['method']} (published)")
    names = [key.removeprefix(FAMILY).replace("_", " ") for key in families]
    plot.name_rows(axes, ["published, on bAbI", "all families", *names])
    axes.axhline(1.5, color=plot.GREY, linewidth=0.8)
    axes.set(xlim=(-0.02, 1.02), xlabel="right answers, test (mean over seeds)")
