"""Sequential ListOps (Nangia and Bowman 2018, as Irie et al. 2021): lists inside lists, read once.

The answer is asked for at the last token, so that a memory must hold what is open above it. Digits
are not equally frequent answers: the share of the most frequent one is what counts as nothing.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fwrl.bench.algorithmic.benchmark import SMALL, TINY, AlgorithmicSettings, Task, train_and_test
from fwrl.bench.algorithmic.figure import Labels, draw_accuracies
from fwrl.bench.algorithmic.listops_task import NUM_DIGITS, ListOpsConfig, listops_batch
from fwrl.bench.benchmark import Benchmark, Measurement, Row
from fwrl.config import validate


class ListOpsSettings(AlgorithmicSettings):
    """The defaults are the published recipe."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "depths", "seeds")

    depths: tuple[int, ...] = (10, 15)
    """Levels of lists inside lists, exactly."""
    max_arguments: int = Field(default=ListOpsConfig().max_arguments, ge=2)
    """Of an operator, which has at least 2."""

    @field_validator("depths")
    @classmethod
    def _possible(cls, depths: tuple[int, ...]) -> tuple[int, ...]:
        for depth in depths:
            validate(ListOpsConfig, {"depth": depth})
        return depths


def points(settings: ListOpsSettings) -> list[Row]:
    """Every memory once, then on deeper lists, then with the next seed."""
    return [
        {"method": method, "depth": depth, "seed": seed}
        for seed in settings.seeds
        for depth in settings.depths
        for method in settings.methods
    ]


def measure(settings: ListOpsSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory on lists."""
    config = ListOpsConfig(depth=int(point["depth"]), max_arguments=settings.max_arguments)

    def make_batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return listops_batch(config, size, generator)

    task = Task(config.vocabulary, NUM_DIGITS, make_batch, majority)
    return train_and_test(settings, task, str(point["method"]), int(point["seed"]), folder)


def majority(_: Tensor, targets: Tensor) -> dict[str, float]:
    """The accuracy of the one digit that is the most frequent answer."""
    counts = torch.bincount(targets[targets >= 0])
    return {"majority": (counts.max() / counts.sum()).item()}


# Test accuracies as two secondary sources give them; those of the others were not found.
PUBLISHED: tuple[Row, ...] = (
    {"method": "lstm", "depth": 10, "accuracy": 0.885},
    {"method": "delta", "depth": 10, "accuracy": 0.857},
    {"method": "recurrent delta", "depth": 10, "accuracy": 0.836},
    {"method": "lstm", "depth": 15, "accuracy": 0.244},
    {"method": "delta", "depth": 15, "accuracy": 0.776},
    {"method": "recurrent delta", "depth": 15, "accuracy": 0.792},
)


def draw(settings: ListOpsSettings, rows: list[Row], path: Path) -> None:
    """How many lists are right, and how that came about."""
    labels = Labels(
        title=f"Sequential ListOps, 2 to {settings.max_arguments} arguments",
        panel="depth",
        setting="depth {}",
        accuracy="lists evaluated right",
        mark=None,
        baseline=("majority", "most frequent answer"),
    )
    draw_accuracies(rows, PUBLISHED, labels, path)


CPU: Mapping[str, Any] = {
    **SMALL,
    "methods": ("delta", "sum", "lstm", "none"),
    "depths": (10,),
    "training": {**SMALL["training"], "steps": 2_000},
}
SMOKE: Mapping[str, Any] = {**TINY, "methods": ("delta", "none"), "depths": (1, 2)}
BENCHMARK = Benchmark(
    settings=ListOpsSettings,
    presets={"smoke": SMOKE, "cpu": CPU, "paper": {}},
    points=points,
    measure=measure,
    draw=draw,
    published=PUBLISHED,
)
