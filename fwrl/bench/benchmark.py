"""The parts of a benchmark: settings, the points to measure, how one is measured, and a figure."""

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

from pydantic import (
    AfterValidator,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    model_validator,
)

from fwrl.config import Config, nearest

Value = str | int | float
# One line of results.csv.
Row = dict[str, Value]


class Progress(NamedTuple):
    """How far the measurement of a point has come."""

    step: int
    total: int
    # such as "loss 0.12"
    note: str = ""


# Yields its progress; returns the rows of a point: usually one, several for a curve.
Measurement = Generator[Progress, None, list[Row]]


class Settings(Config):
    """The settings that every benchmark has."""

    axes: ClassVar[tuple[str, ...]] = ("seeds",)
    """The settings that only choose which points there are; they may change in a results folder."""

    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Each point is measured once with each seed."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where a device is present."""
    num_threads: PositiveInt = 1
    """Threads of PyTorch on the CPU, in each process. One is the safe choice where cores are
    busy."""
    save_every: NonNegativeFloat = 120.0
    """Seconds between two checkpoints of a training."""

    @model_validator(mode="before")
    @classmethod
    def _parts_as_here(cls, values: Any) -> Any:
        """Numbers of a part that are not given are as in this benchmark, not as elsewhere."""
        if not isinstance(values, Mapping):
            return values
        given = dict(cast(Mapping[str, Any], values))
        for name, field in cls.model_fields.items():
            said, here = given.get(name), field.default
            if not (isinstance(said, Mapping) and isinstance(here, Config)):
                continue
            part, own = cast(Mapping[str, Any], said), here.model_dump()
            if part.get("kind", own.get("kind")) == own.get("kind"):
                given[name] = {**own, **part}
        return given


class UnfitError(RuntimeError):
    """The subject of a benchmark does not work: nothing is measured. The message is one line."""


class Benchmark(NamedTuple):
    """An entry of ``BENCHMARKS``; ``Any`` stands for its own settings."""

    settings: type[Settings]
    # differences from the defaults of the settings
    presets: Mapping[str, Mapping[str, Any]]
    # the units that are measured separately, such as {"method": "delta", "keys": 40, "seed": 0},
    # in order
    points: Callable[[Any], list[Row]]
    # measures one point; may keep checkpoints in a folder that belongs to this point alone
    measure: Callable[[Any, Row, Path], Measurement]
    # draws the rows measured so far (points may be missing) into a PNG file; the names of further
    # files begin with the name of the first
    draw: Callable[[Any, list[Row], Path], None]
    # the papers' own results
    published: Sequence[Row] = ()
    # runs before any measurement: returns warnings of what will be missing; raises UnfitError
    check: Callable[[Any], list[str]] | None = None
    # whether it measures times, so that no other process may run beside it
    alone: bool = False


def grid(axes: dict[str, Sequence[Value]]) -> list[Row]:
    """A point for each combination of values; the first axis varies fastest, the last slowest."""
    return [
        dict(zip(axes, reversed(values), strict=True))
        for values in product(*reversed(axes.values()))
    ]


def one_of(known: Iterable[str]) -> AfterValidator:
    """Refuses a tuple of names in which one is not among the known ones."""
    known = list(known)

    def check(names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in known:
                raise ValueError(f"there is no {name!r}; {nearest(name, known)}")
        return names

    return AfterValidator(check)
