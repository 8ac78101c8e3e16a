"""Code execution (Fan et al. 2021, as Irie et al. 2021): variables are written again and again.

A program counts as right if every token is: those that print nothing, and each printed value.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field, field_validator
from torch import Tensor

from fwrl.bench.algorithmic.benchmark import SMALL, TINY, AlgorithmicSettings, Task, train_and_test
from fwrl.bench.algorithmic.code_task import NUM_CLASSES, SILENT, VARIABLES, CodeConfig, code_batch
from fwrl.bench.algorithmic.figure import Labels, draw_accuracies
from fwrl.bench.benchmark import Benchmark, Measurement, Row


class CodeSettings(AlgorithmicSettings):
    """The defaults are the published recipe, with programs that run as Python would run them."""

    axes: ClassVar[tuple[str, ...]] = ("methods", "variables", "seeds")

    variables: tuple[int, ...] = (3, 5)
    """How many variables the programs have."""
    statements: int = Field(default=CodeConfig().num_statements, ge=2)
    """Of each program."""
    published_quirk: bool = False
    """Whether an assignment to a defined variable is ignored inside a conditional that holds, as by
    the interpreter that labelled the published data."""

    @field_validator("variables")
    @classmethod
    def _named(cls, variables: tuple[int, ...]) -> tuple[int, ...]:
        if not all(1 <= number <= len(VARIABLES) for number in variables):
            raise ValueError(f"programs have 1 to {len(VARIABLES)} variables, not {variables}")
        return variables


def points(settings: CodeSettings) -> list[Row]:
    """Every memory once, then with more variables, then with the next seed."""
    return [
        {"method": method, "variables": variables, "seed": seed}
        for seed in settings.seeds
        for variables in settings.variables
        for method in settings.methods
    ]


def measure(settings: CodeSettings, point: Row, folder: Path) -> Measurement:
    """Train one memory on programs."""
    config = CodeConfig(
        num_statements=settings.statements,
        num_variables=int(point["variables"]),
        published_quirk=settings.published_quirk,
    )

    def make_batch(size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return code_batch(config, size, generator)

    task = Task(config.vocabulary, NUM_CLASSES, make_batch, print_accuracy)
    return train_and_test(settings, task, str(point["method"]), int(point["seed"]), folder)


def print_accuracy(predictions: Tensor, targets: Tensor) -> dict[str, float]:
    """The share of right values among all that are printed."""
    printed = targets > SILENT
    return {"print_accuracy": (predictions == targets)[printed].float().mean().item()}


# Test accuracies as two secondary sources give them; those of the others were not found.
PUBLISHED: tuple[Row, ...] = (
    {"method": "lstm", "variables": 3, "accuracy": 0.990},
    {"method": "sum", "variables": 3, "accuracy": 0.0},
    {"method": "delta", "variables": 3, "accuracy": 0.907},
    {"method": "lstm", "variables": 5, "accuracy": 0.932},
    {"method": "sum", "variables": 5, "accuracy": 0.0},
    {"method": "delta", "variables": 5, "accuracy": 0.614},
    {"method": "delta rnn", "variables": 5, "accuracy": 0.851},
)


def draw(settings: CodeSettings, rows: list[Row], path: Path) -> None:
    """How many programs are right, and how that came about."""
    labels = Labels(
        title=f"Code execution, {settings.statements} statements",
        panel="variables",
        setting="{} variables",
        accuracy="programs without a mistake",
        mark=("print_accuracy", "right among the printed values"),
        baseline=None,
    )
    # of programs as long as ours
    same = settings.statements == CodeConfig().num_statements
    draw_accuracies(rows, PUBLISHED if same else (), labels, path)


CPU: Mapping[str, Any] = {
    **SMALL,
    "methods": ("delta, silu", "sum", "delta", "sum, silu", "lstm", "none"),
    "variables": (3,),
    "statements": 20,
    "stack": {"width": 64, "layers": 4, "feed_forward": 256},
    "short_convolution": 4,
    "evaluate_every": 250,
    "training": {
        **SMALL["training"],
        "steps": 2_500,
        "learning_rate": 2e-3,
        "schedule": "cosine",
    },
}
SMOKE: Mapping[str, Any] = {
    **TINY,
    "methods": ("delta", "sum", "none"),
    "variables": (3,),
    "statements": 4,
    "short_convolution": 4,
}
BENCHMARK = Benchmark(
    settings=CodeSettings,
    presets={"smoke": SMOKE, "cpu": CPU, "paper": {"published_quirk": True}},
    points=points,
    measure=measure,
    draw=draw,
    published=PUBLISHED,
)
