"""Comparable times: runs are timed in turns, so that a disturbance hits all, and as ratios."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import torch

from fwrl.bench.benchmark import Progress, Row
from fwrl.bench.speed.settings import SpeedSettings

Run = Callable[[], object]
# Seconds of one call, round by round, for each run.
Times = dict[str, list[float]]

# The number in each unit for so many seconds per unit of work.
UNITS: Mapping[str, Callable[[float], float]] = {
    "ms": lambda seconds: 1e3 * seconds,
    "us": lambda seconds: 1e6 * seconds,
    "steps/s": lambda seconds: 1.0 / seconds,
    "GFLOP/s": lambda seconds: 1e-9 / seconds,
}


class Compared(NamedTuple):
    """The columns that name a comparison."""

    name: str
    peer: str
    shape: str
    unit: str


def in_turns(
    runs: Mapping[str, Run], settings: SpeedSettings, device: torch.device, note: str
) -> Generator[Progress, None, Times]:
    """Seconds of a call of each run, after one or two calls that do not count."""
    counts: dict[str, int] = {}
    for name, run in runs.items():
        yield Progress(0, settings.repeats, f"{note}, {name}")
        # a slow run needs no second call to warm up
        if _seconds(run, 1, device) < settings.shortest:
            once = max(_seconds(run, 1, device), 1e-7)
            counts[name] = max(1, round(settings.shortest / once))
    times: Times = {name: [] for name in runs}
    for round_ in range(settings.repeats):
        for name, run in runs.items():
            yield Progress(round_, settings.repeats, f"{note}, {name}")
            times[name].append(_seconds(run, counts.get(name, 1), device))
    return times


def _seconds(run: Run, count: int, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    for _ in range(count):
        run()
    _wait(device)
    return (time.perf_counter() - began) / count


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(
    compared: Compared,
    ours: Sequence[float],
    theirs: Sequence[float],
    work: int | float = 1,
    their_work: int | float | None = None,
) -> Row:
    """A row of the table: the ratio says how many times as fast ours is.

    Args:
        compared: The names.
        ours: Seconds, round by round.
        theirs: Seconds in the same rounds.
        work: Steps or operations in one call of ours, or 1, as the unit asks.
        their_work: The same for one call of theirs; None: equal.
    """
    show, more = UNITS[compared.unit], work if their_work is None else their_work
    ratios = [(b / more) / (a / work) for a, b in zip(ours, theirs, strict=True)]
    return row(
        compared,
        show(statistics.median(ours) / work),
        show(statistics.median(theirs) / more),
        ratios,
    )


def row(compared: Compared, ours: float, theirs: float, ratios: Sequence[float]) -> Row:
    """A row of the table: median, lowest and highest of the ratios."""
    return {
        **compared._asdict(),
        "ours": ours,
        "theirs": theirs,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "repeats": len(ratios),
    }
