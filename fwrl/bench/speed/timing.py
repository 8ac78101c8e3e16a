"""Times that can be compared: taken in turns, so that a disturbance hits all, and as ratios."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import torch

from fwrl.bench.benchmark import Progress, Row
from fwrl.bench.speed.settings import SpeedSettings

Run = Callable[[], object]
# Seconds of one call, round by round, by name.
Times = dict[str, list[float]]

# How seconds for one unit of work are shown.
UNITS: Mapping[str, Callable[[float], float]] = {
    "ms": lambda seconds: 1e3 * seconds,
    "us": lambda seconds: 1e6 * seconds,
    "steps/s": lambda seconds: 1.0 / seconds,
    "GFLOP/s": lambda seconds: 1e-9 / seconds,
}


class Compared(NamedTuple):
    """What a line of the table compares, in words."""

    name: str
    peer: str
    shape: str
    unit: str


def in_turns(
    runs: Mapping[str, Run], settings: SpeedSettings, device: torch.device, note: str
) -> Generator[Progress, None, Times]:
    """Seconds of a call of each, after one or two that do not count."""
    counts: dict[str, int] = {}
    for name, run in runs.items():
        yield Progress(0, settings.repeats, f"{note}, {name}")
        # what is slow has no time to warm up twice, and no need
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
    """A line of the table: the ratio says how many times as fast ours is.

    Args:
        compared: What it is called.
        ours: Seconds, round by round.
        theirs: Seconds in the same rounds.
        work: What one call of ours does, in the unit's terms: steps, operations, or 1.
        their_work: What one of theirs does; None: the same.
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
    """A line of the table: median, lowest and highest of the ratios."""
    return {
        **compared._asdict(),
        "ours": ours,
        "theirs": theirs,
        "ratio": statistics.median(ratios),
        "low": min(ratios),
        "high": max(ratios),
        "repeats": len(ratios),
    }
