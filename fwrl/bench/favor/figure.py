"""The figure of ``fwrl bench favor``: errors of attention above, of the kernel below.

A column for each kind of directions, a colour for each map.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes

from fwrl.bench import plot
from fwrl.bench.benchmark import Row

# The label, the colour and the marker of each map.
MAPS = {
    "favor_trigonometric": ("trigonometric features", plot.COLOURS[1], "o"),
    "favor": ("positive features", plot.COLOURS[0], "s"),
    "favor_hyperbolic": ("hyperbolic features", plot.COLOURS[3], "^"),
}
DIRECTIONS = {
    "independent": "independent directions",
    "orthogonal": "orthogonal directions",
    "orthogonal_regularised": "orthogonal, equal lengths",
}
# The column along the horizontal axis.
PLACES = {"attention": "num_directions", "kernel": "kernel"}
# The rows of a panel by map.
Curves = Mapping[str, Sequence[Row]]


def draw_errors(rows: Sequence[Row], reference: Sequence[Row], path: Path) -> None:
    """The errors measured so far; closed forms are lines behind the measured kernels.

    Args:
        rows: Errors of attention and of the kernel.
        reference: Medians that others measured, drawn as crosses.
        path: The PNG file.
    """
    lines = sorted({(str(row["quantity"]), float(row["scale"])) for row in rows})
    kinds = [kind for kind in DIRECTIONS if any(row["directions"] == kind for row in rows)]
    with plot.figure(path, 3.15 * len(kinds), 0.7 + 2.45 * len(lines)) as figure:
        grid = figure.subplots(len(lines), len(kinds), sharex="row", sharey="row", squeeze=False)
        for (quantity, scale), panels in zip(lines, grid, strict=True):
            draw = _draw_attention if quantity == "attention" else _draw_kernel
            for kind, axes in zip(kinds, panels, strict=True):
                ours, theirs = (_curves(each, quantity, scale, kind) for each in (rows, reference))
                draw(axes, ours, theirs)
                axes.set_yscale("log")
                axes.set_title(DIRECTIONS[kind])
            panels[0].set_ylabel(
                f"median of attention's errors\nqueries, keys of deviation {scale:g}"
                if quantity == "attention"
                else f"error² / kernel²\nvectors of length {scale:g}",
                fontsize=9,
            )
        plot.legend_below(figure, 3)


def _curves(rows: Sequence[Row], quantity: str, scale: float, kind: str) -> Curves:
    """The rows of one panel, from left to right, by map."""
    wanted = (quantity, scale, kind)
    own = [row for row in rows if (row["quantity"], row["scale"], row["directions"]) == wanted]
    return plot.by(sorted(own, key=lambda row: row[PLACES[quantity]]), "map")


def _draw_attention(axes: Axes, curves: Curves, reference: Curves) -> None:
    for name, (label, colour, marker) in MAPS.items():
        for of_map, style in ((curves, f"{marker}-"), (reference, "x")):
            rows = of_map.get(name, [])
            directions, medians = (plot.numbers(rows, key) for key in ("num_directions", "median"))
            axes.plot(directions, medians, style, color=colour)
        axes.plot([], [], marker, color=colour, label=label)
    if reference:
        axes.plot([], [], "x", color="black", label="separate implementation")
    plot.log_axis(axes, 2)
    axes.set_xlabel("directions")


def _draw_kernel(axes: Axes, curves: Curves, _: Curves) -> None:
    for name, rows in curves.items():
        label, colour, marker = MAPS[name]
        kernels = plot.numbers(rows, "kernel")
        relative = {
            column: [float(row[column]) / float(row["kernel"]) ** 2 for row in rows]
            for column in ("error", "expected_independent", "bound_orthogonal")
            if column in rows[0]
        }
        axes.plot(kernels, relative["error"], marker, color=colour, label=label)
        kind = rows[0]["directions"]
        if kind == "independent":
            axes.plot(kernels, relative["expected_independent"], "--", color=colour, lw=1)
            axes.plot([], [], "--", color="black", lw=1, label="closed form")
        if kind == "orthogonal" and "bound_orthogonal" in relative:
            label, bound = "bound, positive orthogonal", relative["bound_orthogonal"]
            axes.plot(kernels, bound, color=plot.GREY, lw=2, zorder=0, label=label)
    axes.set_xlabel("kernel exp(x · y), 16 directions")
