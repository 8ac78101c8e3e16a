"""Comparable times: runs are timed in turns, so that a disturbance hits all, and as ratios."""

import statistics
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import NamedTuple

import torch

from fwrl.bench.benchmark import Progress, Row
from fwrl.bench.speed.settings import SpeedSettings


class Seconds(NamedTuple):
    """A time by both clocks: on the wall, and of the processors that worked."""

    wall: float
    processor: float


# A run that works in another process returns its Seconds there, which then count.
Run = Callable[[], object]
# The time of one call, round by round, for each run.
Times = dict[str, list[Seconds]]

# The number in each unit for so many seconds per unit of work.
UNITS: Mapping[str, Callable[[float], float]] = {
    "ms": lambda seconds: 1e3 * seconds,
    "us": lambda seconds: 1e6 * seconds,
    "steps/s": lambda seconds: 1.0 / seconds,
    "GFLOP/s": lambda seconds: 1e-9 / seconds,
}


# The columns of a row that exist for processor time too.
MEASURED = ("ours", "theirs", "ratio", "low", "high")


class Compared(NamedTuple):
    """The columns that name a comparison."""

    name: str
    peer: str
    shape: str
    unit: str


def in_turns(
    runs: Mapping[str, Run], settings: SpeedSettings, device: torch.device, note: str
) -> Generator[Progress, None, Times]:
    """The time of a call of each run, after one or two calls that do not count."""
    counts: dict[str, int] = {}
    for name, run in runs.items():
        yield Progress(0, settings.repeats, f"{note}, {name}")
        # a slow run needs no second call to warm up
        if _seconds(run, 1, device).wall < settings.shortest:
            once = max(_seconds(run, 1, device).wall, 1e-7)
            counts[name] = max(1, round(settings.shortest / once))
    times: Times = {name: [] for name in runs}
    for round_ in range(settings.repeats):
        for name, run in runs.items():
            yield Progress(round_, settings.repeats, f"{note}, {name}")
            times[name].append(_seconds(run, counts.get(name, 1), device))
    return times


def _seconds(run: Run, count: int, device: torch.device) -> Seconds:
    _wait(device)
    began = now()
    told = [run() for _ in range(count)]
    _wait(device)
    took = since(began)
    elsewhere = [each for each in told if isinstance(each, Seconds)]
    wall, processor = map(sum, zip(*elsewhere, strict=True)) if elsewhere else took
    return Seconds(wall / count, processor / count)


def now() -> Seconds:
    """The two clocks of this process."""
    return Seconds(time.perf_counter(), time.process_time())


def since(began: Seconds) -> Seconds:
    """The time since then."""
    end = now()
    return Seconds(end.wall - began.wall, end.processor - began.processor)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def compare(
    compared: Compared,
    ours: Sequence[Seconds],
    theirs: Sequence[Seconds],
    work: int | float = 1,
    their_work: int | float | None = None,
) -> Row:
    """A row of the table: the ratio says how many times as fast ours is, on the wall's clock.

    The columns that begin with ``processor`` say the same by processor time.

    Args:
        compared: The names.
        ours: The time, round by round.
        theirs: The time in the same rounds.
        work: Steps or operations in one call of ours, or 1, as the unit asks.
        their_work: The same for one call of theirs; None: equal.
    """
    more = work if their_work is None else their_work
    found, processor = (
        _compared(compared, [a[clock] / work for a in ours], [b[clock] / more for b in theirs])
        for clock in range(len(Seconds._fields))
    )
    return found | {f"processor_{name}": processor[name] for name in MEASURED}


def _compared(compared: Compared, ours: list[float], theirs: list[float]) -> Row:
    """A row of the seconds that a unit of work took, round by round."""
    show = UNITS[compared.unit]
    ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
    return row(compared, show(statistics.median(ours)), show(statistics.median(theirs)), ratios)


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
