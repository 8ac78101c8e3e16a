"""Sequential ListOps (Nangia and Bowman 2018, as Irie et al. 2021): lists inside lists, read once.

The answer is asked for at the last token, so that a memory must hold all lists still open. Digits
are not equally frequent answers: the baseline is to always answer the most frequent one.
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from fwrl.bench.algorithmic.benchmark import SMALL, TINY, AlgorithmicSettings, Task, train_and_test
from fwrl.bench.algorithmic.figure import Labels, draw_accuracies
from fwrl.bench.algorithmic.listops_task import NUM_DIGITS, Depth, ListOpsConfig, listops_batch
from fwrl.bench.benchmark import Benchmark, Measurement, Row, grid
from fwrl.bench.results import read_published


class ListOpsSettings(AlgorithmicSettings):
    """The defaults are the published recipe."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "depths", "seeds")

    depths: tuple[Depth, ...] = (10, 15)
    """Exact number of levels of lists inside lists."""
    max_arguments: int = Field(default=ListOpsConfig().max_arguments, ge=2)
    """The most arguments of an operator, which has at least 2."""


def points(settings: ListOpsSettings) -> list[Row]:
    """Every memory once, then on deeper lists, then with the next seed."""
    return grid({"method": settings.methods, "depth": settings.depths, "seed": settings.seeds})


def measure(settings: ListOpsSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory on lists."""
    config = ListOpsConfig(depth=int(point["depth"]), max_arguments=settings.max_arguments)
    task = Task(config.vocabulary, NUM_DIGITS, partial(listops_batch, config), majority)
    return train_and_test(settings, task, str(point["method"]), int(point["seed"]), folder)


def majority(_: Tensor, targets: Tensor) -> dict[str, float]:
    """The accuracy of always answering the most frequent digit."""
    counts = torch.bincount(targets[targets >= 0])
    return {"majority": (counts.max() / counts.sum()).item()}


# Test accuracies from two secondary sources; for the other memories none were found.
PUBLISHED = read_published("algorithmic", "published_listops.csv")


def draw(settings: ListOpsSettings, rows: list[Row], path: Path) -> None:
    """The share of lists that are right, in the test and during training."""
    labels = Labels(
        title=f"Sequential ListOps, 2 to {settings.max_arguments} arguments",
        panel="depth",
        setting="depth {}",
        accuracy="lists evaluated right",
        mark=None,
        baseline=("majority", "most frequent answer"),
    )
    draw_accuracies(rows, PUBLISHED, labels, path)


CPU: dict[str, Any] = {
    **SMALL,
    "methods": ("delta", "sum", "lstm", "none"),
    "depths": (10,),
    "training": {**SMALL["training"], "steps": 2_000},
}
SMOKE: dict[str, Any] = {**TINY, "methods": ("delta", "none"), "depths": (1, 2)}
PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": {}}

BENCHMARK = Benchmark(ListOpsSettings, PRESETS, points, measure, draw, PUBLISHED)
