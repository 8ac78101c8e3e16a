"""The figure of catbAbI: how answers are learned, and the test by family of stories."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from fwrl.bench.benchmark import Row

# Label, colour (of the family in the palette), marker.
STYLES = {
    "fast_weight_memory": ("fast weight memory", "#3aa5d9", "o"),
    "lstm": ("LSTM", "#cc5fa0", "s"),
    "delta": ("fast weights, delta", "#0072b2", "D"),
    "gated_delta": ("fast weights, gated delta", "#009e73", "P"),
    "sum": ("fast weights, sum", "#d55e00", "v"),
    "window_attention": ("windowed attention", "#7a4fa3", "^"),
    "none": ("no memory", "#4d4d4d", "X"),
    "question_alone": ("the question alone", "#777777", "|"),
}
OF = "of_"
# Schlag et al. (2021) on bAbI's own stories; ours are others.
PUBLISHED: list[Row] = [
    {"method": "fast_weight_memory", "mode": "lm", "accuracy": 0.9304},
    {"method": "fast_weight_memory", "mode": "qm", "accuracy": 0.9675},
    {"method": "Transformer-XL", "mode": "lm", "accuracy": 0.9023},
    {"method": "Transformer-XL", "mode": "qm", "accuracy": 0.8766},
    {"method": "lstm", "mode": "lm", "accuracy": 0.8015},
    {"method": "lstm", "mode": "qm", "accuracy": 0.8088},
    {"method": "Metalearned Neural Memory", "mode": "lm", "accuracy": 0.6930},
    {"method": "Metalearned Neural Memory", "mode": "qm", "accuracy": 0.8897},
]

# The published methods that have a counterpart among ours.
COUNTERPARTS = {"Transformer-XL": "window_attention"}


def draw(settings: Any, rows: list[Row], path: Path) -> None:
    """A row of two panels for each mode."""
    modes = [mode for mode in settings.modes if any(row["mode"] == mode for row in rows)]
    modes = modes or [str(rows[0]["mode"])]
    families = list(dict.fromkeys(key for row in rows for key in row if key.startswith(OF)))
    figure, panels = plt.subplots(
        len(modes),
        2,
        squeeze=False,
        figsize=(10.5, len(modes) * (1.6 + 0.27 * (len(families) + 1))),
        width_ratios=(1, 1.25),
        layout="constrained",
    )
    for (learning, test), mode in zip(panels, modes, strict=True):
        here = [row for row in rows if row["mode"] == mode or row["method"] == "question_alone"]
        _learning(learning, [row for row in here if row["split"] == "valid"])
        _test(test, [row for row in here if row["split"] == "test"], families, mode)
        loss = "answers alone" if mode == "qm" else "every next word"
        learning.set_title(f"{mode.upper()} mode: trained on {loss}", fontsize=10)
    handles, labels = panels[0][1].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=5, frameon=False)
    data = "bAbI" if settings.data else "synthetic stories, not bAbI"
    figure.suptitle(f"Answers in a stream of stories ({data})", fontsize=11)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _learning(axes: Axes, rows: Sequence[Row]) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.8)
    for method, (label, colour, _) in STYLES.items():
        curves: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
        for row in rows:
            if row["method"] == method:
                curves[int(row["seed"])].append((int(row["step"]), float(row["accuracy"])))
        for curve in curves.values():
            axes.plot(*zip(*sorted(curve), strict=True), color=colour, linewidth=1.3, label=label)
    axes.set_xlabel("updates")
    axes.set_ylabel("right answers, validation")
    axes.set_ylim(0, 1)
    axes.spines[["top", "right"]].set_visible(False)


def _test(axes: Axes, rows: Sequence[Row], families: Sequence[str], mode: str) -> None:
    axes.grid(color="#e5e5e5", linewidth=0.8)
    axes.set_axisbelow(True)
    for method, (label, colour, marker) in STYLES.items():
        seeds = [row for row in rows if row["method"] == method]
        if not seeds:
            continue
        means = [_mean(seeds, key) for key in ("accuracy", *families)]
        heights = [height for height, mean in enumerate(means) if mean is not None]
        shown = [mean for mean in means if mean is not None]
        size = 11 if marker == "|" else 6
        axes.plot(shown, heights, marker, color=colour, markersize=size, label=label, alpha=0.9)
    for row in PUBLISHED:
        ours = COUNTERPARTS.get(str(row["method"]), str(row["method"]))
        if row["mode"] == mode and ours in STYLES:
            _, colour, marker = STYLES[ours]
            axes.plot(
                float(row["accuracy"]), -1, marker, markeredgecolor=colour, color="none",
                markersize=6,
            )  # fmt: skip
    names = [key.removeprefix(OF).replace("_", " ") for key in families]
    axes.set_yticks(range(-1, len(names) + 1), ["published, on bAbI", "all families", *names])
    axes.axhline(0.5, color="#999999", linewidth=0.8)
    axes.set_ylim(len(names) + 0.6, -1.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("right answers, test (mean over seeds)")
    axes.spines[["top", "right"]].set_visible(False)


def _mean(rows: Sequence[Row], key: str) -> float | None:
    values = [float(row[key]) for row in rows if key in row]
    return sum(values) / len(values) if values else None
