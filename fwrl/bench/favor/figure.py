"""The figure of ``fwrl bench favor``: errors of attention above, of the kernel below.

A column for each kind of directions, a colour for each map.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fwrl.bench.benchmark import Row
from fwrl.bench.plot import GREY

# What a line is called, its colour and its marker.
MAPS = {
    "favor_trigonometric": ("trigonometric", "#d55e00", "o"),
    "favor": ("positive", "#0072b2", "s"),
    "favor_hyperbolic": ("hyperbolic", "#009e73", "^"),
}
DIRECTIONS = {
    "independent": "independent directions",
    "orthogonal": "orthogonal directions",
    "orthogonal_regularised": "orthogonal, equal lengths",
}
REFERENCE = "separate implementation"


def draw_errors(rows: Sequence[Row], reference: Sequence[Row], path: Path) -> None:
    """The rows that there are; the closed forms are lines behind the measured kernels.

    Args:
        rows: Of both quantities.
        reference: Medians that others measured, drawn as crosses.
        path: Of the PNG file.
    """
    lines = sorted({(str(row["quantity"]), float(row["scale"])) for row in rows})
    kinds = [kind for kind in DIRECTIONS if any(row["directions"] == kind for row in rows)]
    figure, grid = plt.subplots(
        len(lines),
        len(kinds),
        figsize=(3.15 * len(kinds), 0.7 + 2.45 * len(lines)),
        sharex="row",
        sharey="row",
        squeeze=False,
        layout="constrained",
    )
    for (quantity, scale), panels in zip(lines, grid, strict=True):
        for kind, axes in zip(kinds, panels, strict=True):
            own = _of(rows, quantity, scale, kind)
            if quantity == "attention":
                _attention(axes, own, _of(reference, quantity, scale, kind))
            else:
                _kernel(axes, own)
            axes.set_yscale("log")
            axes.grid(alpha=0.2)
            axes.spines[["top", "right"]].set_visible(False)
            axes.set_title(DIRECTIONS[kind], loc="left", fontsize=9.5)
        panels[0].set_ylabel(_label(quantity, scale), fontsize=9.5)
    handles = _legend(bool(reference))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _of(rows: Sequence[Row], quantity: str, scale: float, kind: str) -> list[Row]:
    wanted = (quantity, scale, kind)
    return [row for row in rows if (row["quantity"], row["scale"], row["directions"]) == wanted]


def _label(quantity: str, scale: float) -> str:
    if quantity == "attention":
        return f"median of attention's errors\nqueries, keys of deviation {scale:g}"
    return f"error² / kernel²\nvectors of length {scale:g}"


def _curve(rows: Sequence[Row], name: str, over: str) -> list[Row]:
    """Of one map, from left to right."""
    return sorted((row for row in rows if row["map"] == name), key=lambda row: row[over])


def _attention(axes: Axes, rows: Sequence[Row], reference: Sequence[Row]) -> None:
    for name, (_, colour, marker) in MAPS.items():
        curve = _curve(rows, name, "num_directions")
        directions = [row["num_directions"] for row in curve]
        medians = [row["median"] for row in curve]
        axes.plot(directions, medians, color=colour, marker=marker, markersize=4, linewidth=1.4)
        for row in _curve(reference, name, "num_directions"):
            axes.plot(row["num_directions"], row["median"], "x", color=colour, ms=7, alpha=0.6)
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("directions", fontsize=9.5)


def _kernel(axes: Axes, rows: Sequence[Row]) -> None:
    for name, (_, colour, marker) in MAPS.items():
        curve = _curve(rows, name, "kernel")
        kernels = [float(row["kernel"]) for row in curve]

        def relative(column: str, curve: Sequence[Row] = curve) -> list[float]:
            return [float(row[column]) / float(row["kernel"]) ** 2 for row in curve]

        axes.plot(kernels, relative("error"), color=colour, linestyle="", marker=marker, ms=5)
        if curve and curve[0]["directions"] == "independent":
            axes.plot(kernels, relative("expected_independent"), color=colour, linestyle="--", lw=1)
        if curve and curve[0]["directions"] == "orthogonal" and "bound_orthogonal" in curve[0]:
            axes.plot(kernels, relative("bound_orthogonal"), color=GREY, lw=2, zorder=0)
    axes.set_xlabel("kernel exp(x · y), 16 directions", fontsize=9.5)


def _legend(with_reference: bool) -> list[Line2D]:
    maps = [
        Line2D([], [], color=colour, marker=marker, ms=5, label=f"{name} features")
        for name, colour, marker in MAPS.values()
    ]
    theory = [
        Line2D([], [], color="black", linestyle="--", lw=1, label="closed form"),
        Line2D([], [], color=GREY, lw=2, label="bound, positive orthogonal"),
    ]
    if with_reference:
        theory.append(Line2D([], [], color="black", ls="", marker="x", ms=7, label=REFERENCE))
    return [*maps, *theory]
