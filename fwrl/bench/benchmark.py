"""What a benchmark is: settings, the points to measure, how one is measured, and a figure."""

from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt

from fwrl.config import Config

Value = str | int | float
# One line of results.csv.
Row = dict[str, Value]


class Progress(NamedTuple):
    """Where the measurement of a point is."""

    step: int
    total: int
    # such as "loss 0.12"
    note: str = ""


# Yields where it is; returns the lines of a point: usually one, several for a curve.
Measurement = Generator[Progress, None, list[Row]]


class Settings(Config):
    """What every benchmark can be told."""

    axes: ClassVar[tuple[str, ...]] = ("seeds",)
    """The settings that only choose which points there are; they may change in a folder."""

    seeds: tuple[NonNegativeInt, ...] = (0,)
    """Each point is measured once with each."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """``auto`` takes CUDA where there is some."""
    num_threads: PositiveInt = 1
    """Of PyTorch on the CPU, in each process. One is the safe choice where cores are busy."""
    save_every: NonNegativeFloat = 120.0
    """Seconds between two checkpoints of a training."""


class UnfitError(RuntimeError):
    """What is to be measured does not work. The message is one line."""


class Benchmark(NamedTuple):
    """An entry of ``BENCHMARKS``; ``Any`` stands for its own settings."""

    settings: type[Settings]
    # what differs from the defaults of the settings
    presets: Mapping[str, Mapping[str, Any]]
    # what is measured separately, such as {"method": "delta", "keys": 40, "seed": 0}, in order
    points: Callable[[Any], list[Row]]
    # measures one point; it may keep checkpoints in a folder that is its own
    measure: Callable[[Any, Row, Path], Measurement]
    # draws all rows that there are into a PNG file, some points may be missing; the names of more
    # files begin with that of the first
    draw: Callable[[Any, list[Row], Path], None]
    # the figures of the papers
    published: Sequence[Row] = ()
    # before anything is measured: says what will be missing, raises UnfitError if nothing can be
    check: Callable[[Any], list[str]] | None = None
    # whether it measures times, so that nothing may run beside it
    alone: bool = False
