"""``fwrl bench``: measures the points missing in a results folder, then draws all of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from fwrl.bench import find_benchmark, plot
from fwrl.bench.benchmark import Benchmark, Row, Settings, UnfitError
from fwrl.bench.engine import ProcessLostError, holds, measure, name_of
from fwrl.bench.results import (
    DOCUMENT,
    LARGEST_TABLE,
    TABLE,
    machine,
    read_rows,
    write_document,
    write_rows,
)
from fwrl.config import ConfigError, nearest, validate
from fwrl.files.json_files import read_json
from fwrl.files.plain_files import FileError
from fwrl.run.directory import (
    claimed,
    command_typed,
    named_directory,
    open_directory,
    staying,
    versions,
)
from fwrl.run.exit_codes import FAILED, FINISHED, STOPPED
from fwrl.run.jobs import processors
from fwrl.run.output import INTERRUPTIONS
from fwrl.run.process import Clock
from fwrl.run.progress import say
from fwrl.run.signals import signals_interrupt
from fwrl.run.yaml_files import apply_overrides

# The keys of results.json about the origin of its results.
ORIGIN = ("command", "preset", "versions", "machine")
# Settings that may change when a results folder is continued, in all benchmarks.
MAY_CHANGE = ("device", "num_threads", "save_every")
# The preset that only checks that a benchmark runs.
SMOKE = "smoke"
# Seconds between two lines about a point if the output is no terminal.
LINE_INTERVAL = 30.0


class Request(NamedTuple):
    """The arguments of the command."""

    name: str
    overrides: Sequence[str]
    preset: str
    out: Path | None
    jobs: int | None
    fresh: bool


def run_benchmark(request: Request, console: Console) -> int:
    """Measure and draw; returns the exit code.

    Raises:
        ConfigError: If the request is not possible.
    """
    benchmark = find_benchmark(request.name)
    if benchmark.alone and (request.jobs or 1) > 1:
        raise ConfigError(f"--jobs is {request.jobs}; {request.name} measures times, one at a time")
    settings = settings_of(benchmark, request.preset, request.overrides)
    changes = sorted(text for text in request.overrides if not _is_axis(settings, text))
    folder = request.out or named_directory([request.name, request.preset, *changes])
    may_change = {*MAY_CHANGE, *settings.axes}
    with claimed(folder, request.fresh), staying(folder):
        open_directory(folder, settings, may_change, "choose another --out")
        return _fill(request, benchmark, settings, folder, console)


def _fill(
    request: Request, benchmark: Benchmark, settings: Settings, folder: Path, console: Console
) -> int:
    points = benchmark.points(settings)
    origin = _origin(folder, points)
    try:
        stopped = _measure_missing(request, benchmark, settings, points, folder, console)
    except (UnfitError, ProcessLostError) as error:
        say(console, f"fwrl: {error}")
        return FAILED
    rows = in_order(read_rows(folder / TABLE), points)
    write_rows(folder / TABLE, rows)
    missing = [point for point in points if not holds(rows, point)]
    write_document(
        folder / DOCUMENT,
        {
            "benchmark": request.name,
            "command": command_typed(),
            "preset": request.preset,
            "settings": settings.model_dump(mode="json"),
            "versions": versions(),
            "machine": machine(),
            "missing": missing,
            "rows": rows,
            "published": list(benchmark.published),
        }
        | origin,
    )
    figures = _draw(request, benchmark, settings, rows, folder)
    if stopped:
        console.print(f"stopped, {len(missing)} points missing; the same command continues")
        return STOPPED
    for file in (folder / TABLE, *figures):
        say(console, str(file))
    return FINISHED


def _draw(
    request: Request, benchmark: Benchmark, settings: Settings, rows: list[Row], folder: Path
) -> list[Path]:
    """Draw the figures, which say so if they are of a mere check; returns the files."""
    if rows:
        with plot.rows_of(folder / TABLE):
            benchmark.draw(settings, rows, folder / f"{request.name}.png")
    figures = sorted(folder.glob(f"{request.name}*.png"))
    if rows and request.preset == SMOKE:
        for file in figures:
            plot.write_below(file, f"--preset {SMOKE}: a check in seconds, no result")
    return figures


def _origin(folder: Path, points: Sequence[Row]) -> dict[str, Any]:
    """The origin of complete results, which are only drawn again; else nothing."""
    rows = read_rows(folder / TABLE)
    if not (folder / DOCUMENT).exists() or not all(holds(rows, point) for point in points):
        return {}
    try:
        told = read_json(folder / DOCUMENT, LARGEST_TABLE)
    except FileError:
        return {}
    return {key: told[key] for key in ORIGIN if key in told} if isinstance(told, dict) else {}


def in_order(rows: Sequence[Row], points: Sequence[Row]) -> list[Row]:
    """The rows of the points in their order, then those of other points of the folder."""
    asked = [[row for row in rows if holds([row], point)] for point in points]
    others = [row for row in rows if not any(holds([row], point) for point in points)]
    return [row for group in asked for row in group] + others


def settings_of(benchmark: Benchmark, preset: str, overrides: Sequence[str]) -> Settings:
    """The settings of a preset, with overrides.

    Raises:
        ConfigError: For an unknown preset or an impossible setting.
    """
    if preset not in benchmark.presets:
        raise ConfigError(f"--preset is {preset!r}; {nearest(preset, benchmark.presets)}")
    values = _as_written(benchmark.presets[preset])
    apply_overrides(values, overrides)
    return validate(benchmark.settings, values)


def _as_written(values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy with mappings that can be changed."""
    return {k: _as_written(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _is_axis(settings: Settings, override: str) -> bool:
    return override.partition("=")[0] in (*MAY_CHANGE, *settings.axes)


def _measure_missing(
    request: Request,
    benchmark: Benchmark,
    settings: Settings,
    points: Sequence[Row],
    folder: Path,
    console: Console,
) -> bool:
    """Measure the missing points and add their rows; True if it was interrupted."""
    rows = read_rows(folder / TABLE)
    missing = [point for point in points if not holds(rows, point)]
    if not missing:
        return False
    for line in benchmark.check(settings) if benchmark.check else ():
        say(console, line)
    jobs = 1 if benchmark.alone else min(request.jobs or _processors(settings), len(missing))
    report = PointReport(console, len(points), len(points) - len(missing))
    try:
        with signals_interrupt():
            for message in measure(request.name, settings, missing, folder, jobs):
                if message.progress is not None:
                    step, total, note = message.progress
                    report.show(message.point, step, total, note)
                else:
                    rows += message.rows
                    write_rows(folder / TABLE, rows)
                    report.finish(message.point, message.rows)
    except INTERRUPTIONS:
        return True
    finally:
        report.close()
    return False


def _processors(settings: Settings) -> int:
    if settings.device == "cuda":
        return 1
    return max(processors() // settings.num_threads, 1)


class PointReport:
    """Progress bars, one for all points and one for each in progress, or plain lines."""

    def __init__(self, console: Console, total: int, measured: int) -> None:
        self.console, self.total, self.measured = console, total, measured
        self.bars: dict[str, TaskID] = {}
        self.clock = Clock(LINE_INTERVAL)
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} of {task.total:,.0f}"),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.all = self.progress.add_task("points", total=total, completed=measured, note="")
        self.progress.start()

    def show(self, point: Row, step: int, total: int, note: str) -> None:
        """Show how far the measurement of a point has come."""
        name = name_of(point)
        if name not in self.bars:
            self.bars[name] = self.progress.add_task(name, total=total, note="")
        self.progress.update(self.bars[name], completed=step, total=total, note=note)
        if not self.console.is_terminal and self.clock.due():
            say(self.console, f"{name}: {step:,} of {total:,}  {note}")

    def finish(self, point: Row, rows: Sequence[Row]) -> None:
        """Report the last row of a point that is measured."""
        self.measured += 1
        if (bar := self.bars.pop(name_of(point), None)) is not None:
            self.progress.remove_task(bar)
        self.progress.update(self.all, completed=self.measured)
        found = {key: value for key, value in rows[-1].items() if key not in point}
        words = ", ".join(f"{key} {_short(value)}" for key, value in found.items())
        say(self.console, f"{self.measured}/{self.total}  {name_of(point)}: {words}")

    def close(self) -> None:
        """Leave the bars as they stand."""
        self.progress.stop()


def _short(value: str | int | float) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
