"""The figure of the translation benchmark: our BLEU by method, and the published ones beside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from fwrl.bench.benchmark import Row

BLEU, WHOLE, PUBLISHED = "#0072B2", "#D55E00", "#999999"


def draw_translation(rows: Sequence[Row], published: Sequence[Row], texts: str, path: Path) -> None:
    """Bars of test BLEU, lines from the worst to the best seed.

    Args:
        rows: Ours; some methods may be missing.
        published: The papers'.
        texts: What ours were trained on, in words.
        path: Of the PNG file.
    """
    methods = list(dict.fromkeys(str(row["method"]) for row in rows))
    lines = max(len(methods), len(published))
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8.5, 1.4 + 0.33 * lines), layout="constrained")
        ours, theirs = figure.subplots(1, 2, width_ratios=(3, 2))
        _ours(ours, methods, rows)
        ours.set_title(texts, loc="left")
        _theirs(theirs, published)
        handles, labels = ours.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
        figure.savefig(path, dpi=150)


def _ours(axes: Any, methods: Sequence[str], rows: Sequence[Row]) -> None:
    for place, method in enumerate(methods):
        of_method = [row for row in rows if row["method"] == method]
        bleu = [float(row["test_bleu"]) for row in of_method]
        whole = [100 * float(row["test_exact"]) for row in of_method]
        mean = sum(bleu) / len(bleu)
        first = place == 0
        axes.barh(place, mean, 0.7, color=BLEU, label="BLEU (numbers)" if first else None)
        if len(bleu) > 1:
            axes.plot([min(bleu), max(bleu)], [place, place], color="black", linewidth=1)
        axes.plot(
            [sum(whole) / len(whole)],
            [place],
            "D",
            color=WHOLE,
            markeredgecolor="white",
            markersize=6,
            clip_on=False,
            zorder=3,
            label="sentences that are right as a whole, %" if first else None,
        )
        axes.text(104, place, f"{mean:.1f}", va="center")
    axes.set_yticks(range(len(methods)), methods)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xlabel("test")


def _theirs(axes: Any, published: Sequence[Row]) -> None:
    names: list[str] = []
    for place, row in enumerate(published):
        bleu = float(row["test_bleu"])
        axes.plot([bleu], [place], "o", color=PUBLISHED, markersize=7)
        axes.text(bleu + 0.25, place, f"{bleu:.1f}", va="center")
        names.append(str(row["method"]))
    axes.set_yticks(range(len(published)), names)
    axes.invert_yaxis()
    if published:
        bleus = [float(row["test_bleu"]) for row in published]
        axes.set_xlim(min(bleus) - 1, max(bleus) + 1.5)
    axes.set_xlabel("test BLEU")
    axes.grid(axis="y", color="#e5e5e5")
    axes.set_axisbelow(True)
    axes.set_title("published: WMT14 en-de", loc="left")
