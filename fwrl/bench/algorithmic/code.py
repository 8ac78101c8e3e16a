"""Code execution (Fan et al. 2021, as Irie et al. 2021): variables are written again and again.

A program counts as right if every token is: those that print nothing, and each printed value.
"""

from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field
from torch import Tensor

from fwrl.bench.algorithmic.benchmark import SMALL, TINY, AlgorithmicSettings, Task, train_and_test
from fwrl.bench.algorithmic.code_task import (
    NUM_CLASSES,
    SILENT,
    CodeConfig,
    NumVariables,
    code_batch,
)
from fwrl.bench.algorithmic.figure import Labels, draw_accuracies
from fwrl.bench.benchmark import Benchmark, Measurement, Row, grid
from fwrl.bench.results import read_published


class CodeSettings(AlgorithmicSettings):
    """The defaults are the published recipe, with programs that run as Python would run them."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "variables", "seeds")

    variables: tuple[NumVariables, ...] = (3, 5)
    """How many variables the programs have."""
    statements: int = Field(default=CodeConfig().num_statements, ge=2)
    """Statements in each program."""
    published_quirk: bool = False
    """Whether an assignment to a defined variable inside a conditional that holds is ignored, as
    it was by the interpreter that labelled the published data."""


def points(settings: CodeSettings) -> list[Row]:
    """Every memory once, then with more variables, then with the next seed."""
    return grid(
        {"method": settings.methods, "variables": settings.variables, "seed": settings.seeds}
    )


def measure(settings: CodeSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory on programs."""
    config = CodeConfig(
        num_statements=settings.statements,
        num_variables=int(point["variables"]),
        published_quirk=settings.published_quirk,
    )
    task = Task(config.vocabulary, NUM_CLASSES, partial(code_batch, config), print_accuracy)
    return train_and_test(settings, task, str(point["method"]), int(point["seed"]), folder)


def print_accuracy(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """The share of printed values that are right."""
    printed = targets > SILENT
    return {"print_accuracy": (predictions == targets)[printed].float().mean().item()}


# Test accuracies from two secondary sources; for the other memories none were found.
PUBLISHED = read_published("algorithmic", "published_code.csv")


def draw(settings: CodeSettings, rows: list[Row], path: Path) -> None:
    """The share of programs that are right, in the test and during training."""
    labels = Labels(
        title=f"Code execution, {settings.statements} statements",
        panel="variables",
        setting="{} variables",
        accuracy="programs without a mistake",
        mark=("print_accuracy", "right among the printed values"),
        baseline=None,
    )
    # the published programs have the default length
    same = settings.statements == CodeConfig().num_statements
    draw_accuracies(rows, PUBLISHED if same else (), labels, path)


CPU: dict[str, Any] = {
    **SMALL,
    "methods": ("delta, silu", "sum", "delta", "sum, silu", "lstm", "none"),
    "variables": (3,),
    "statements": 20,
    "stack": {"width": 64, "layers": 4, "feed_forward": 256},
    "short_convolution": 4,
    "evaluate_every": 250,
    "training": {**SMALL["training"], "steps": 2_500, "learning_rate": 2e-3},
}
SMOKE: dict[str, Any] = {
    **TINY,
    "methods": ("delta", "sum", "none"),
    "variables": (3,),
    "statements": 4,
    "short_convolution": 4,
}
PRESETS = {"smoke": SMOKE, "cpu": CPU, "paper": {"published_quirk": True}}

BENCHMARK = Benchmark(CodeSettings, PRESETS, points, measure, draw, PUBLISHED)
