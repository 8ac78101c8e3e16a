"""A legend below an axis."""

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation

# Inches from the axis: its numbers and its label stand between.
DISTANCE = 0.52


def legend_below(axes: Axes) -> None:
    """In two columns, as far from the axis whatever the height of the axes."""
    figure = axes.get_figure(root=True)
    if figure is None or not axes.get_legend_handles_labels()[1]:
        return
    axes.legend(
        fontsize=9,
        loc="upper center",
        bbox_to_anchor=(0.45, 0.0),
        bbox_transform=axes.transAxes + ScaledTranslation(0, -DISTANCE, figure.dpi_scale_trans),
        borderaxespad=0.0,
        ncols=2,
        frameon=False,
    )
