"""The figure of ``fwrl bench favor``: errors of attention above, of the kernel below."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from fwrl.bench.benchmark import Row

MAPS = {
    "favor_trigonometric": ("trigonometric", "#d55e00"),
    "favor": ("positive", "#0072b2"),
    "favor_hyperbolic": ("hyperbolic", "#009e73"),
}
# What a line is called, its form and its marker.
DIRECTIONS: dict[str, tuple[str, Literal["--", "-", ":"], str]] = {
    "independent": ("independent", "--", "o"),
    "orthogonal": ("orthogonal", "-", "s"),
    "orthogonal_regularised": ("orthogonal, equal lengths", ":", "^"),
}


def draw_errors(rows: Sequence[Row], reference: Sequence[Row], path: Path) -> None:
    """The rows that there are; the closed forms are lines behind the measured kernels.

    Args:
        rows: Of both quantities.
        reference: Medians that others measured, drawn as crosses.
        path: Of the PNG file.
    """
    panels = sorted({(str(row["quantity"]), float(row["scale"])) for row in rows})
    attention = [scale for quantity, scale in panels if quantity == "attention"]
    kernel = [scale for quantity, scale in panels if quantity == "kernel"]
    columns = max(len(attention), len(kernel))
    figure, axes = plt.subplots(
        2, columns, figsize=(5.2 * columns, 8.2), squeeze=False, layout="constrained"
    )
    for panel in axes.flat:
        panel.set_visible(False)
    for panel, scale in zip(axes[0], attention, strict=False):
        _attention(panel, _of(rows, "attention", scale), scale)
        for row in _of(reference, "attention", scale):
            colour = MAPS[str(row["map"])][1]
            place = (row["num_directions"], row["median"])
            panel.plot(*place, color=colour, marker="x", markersize=5, alpha=0.5)
    for panel, scale in zip(axes[1], kernel, strict=False):
        _kernel(panel, _of(rows, "kernel", scale), scale)
    axes[0][0].set_ylabel("median of the output's mean square errors")
    axes[1][0].set_ylabel("mean square error / kernel²")
    figure.legend(
        handles=_legend(bool(reference)),
        loc="outside lower center",
        ncols=5,
        fontsize=9,
        frameon=False,
    )
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _of(rows: Sequence[Row], quantity: str, scale: float) -> list[Row]:
    return [row for row in rows if (row["quantity"], row["scale"]) == (quantity, scale)]


def _curves(rows: Sequence[Row], over: str) -> list[tuple[str, str, list[Row]]]:
    """Map, kind of directions, and rows from left to right."""
    return [
        (name, kind, found)
        for name in MAPS
        for kind in DIRECTIONS
        if (
            found := sorted(
                (row for row in rows if (row["map"], row["directions"]) == (name, kind)),
                key=lambda row: row[over],
            )
        )
    ]


def _attention(axes: Axes, rows: Sequence[Row], scale: float) -> None:
    for name, kind, curve in _curves(rows, "num_directions"):
        (_, colour), (_, style, marker) = MAPS[name], DIRECTIONS[kind]
        axes.plot(
            [row["num_directions"] for row in curve],
            [row["median"] for row in curve],
            color=colour,
            linestyle=style,
            marker=marker,
            markersize=4,
            linewidth=1.4,
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter("{x:.0f}")
    axes.set_xlabel("directions")
    _finish(axes, f"Attention, queries and keys of deviation {scale:g}")


def _kernel(axes: Axes, rows: Sequence[Row], scale: float) -> None:
    for name, kind, curve in _curves(rows, "kernel"):
        (_, colour), (_, _, marker) = MAPS[name], DIRECTIONS[kind]
        kernels = [float(row["kernel"]) for row in curve]

        def relative(column: str, curve: Sequence[Row] = curve) -> list[float]:
            return [float(row[column]) / float(row["kernel"]) ** 2 for row in curve]

        axes.plot(kernels, relative("error"), color=colour, linestyle="", marker=marker, ms=5)
        if kind == "independent":
            axes.plot(kernels, relative("expected_independent"), color=colour, linestyle="--", lw=1)
        if kind == "orthogonal" and "bound_orthogonal" in curve[0]:
            axes.plot(kernels, relative("bound_orthogonal"), color="#999999", lw=2, zorder=0)
    axes.set_xlabel("kernel exp(x · y)")
    _finish(axes, f"Kernel of vectors of length {scale:g}, 16 directions")


def _finish(axes: Axes, title: str) -> None:
    axes.set_visible(True)
    axes.set_yscale("log")
    axes.set_title(title, loc="left", fontsize=10)
    axes.grid(alpha=0.2)
    axes.tick_params(labelleft=True)
    axes.spines[["top", "right"]].set_visible(False)


def _legend(with_reference: bool) -> list[Line2D]:
    maps = [Line2D([], [], color=colour, lw=3, label=name) for name, colour in MAPS.values()]
    kinds = [
        Line2D([], [], color="black", linestyle=style, marker=marker, ms=5, label=name)
        for name, style, marker in DIRECTIONS.values()
    ]
    theory = [
        Line2D([], [], color="black", linestyle="--", lw=1, label="closed form, independent"),
        Line2D([], [], color="#999999", lw=2, label="bound, positive orthogonal"),
    ]
    if with_reference:
        cross = Line2D([], [], color="black", linestyle="", marker="x", alpha=0.5)
        cross.set_label("reference")
        theory.append(cross)
    return [*maps, *kinds, *theory]
