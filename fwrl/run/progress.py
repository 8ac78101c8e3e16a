"""Progress of a training: a bar, or plain lines where there is no terminal."""

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Seconds between two plain lines, and between two counts of an evaluation on a terminal.
LINE_INTERVAL, COUNT_INTERVAL = 10.0, 0.2


def say(console: Console, line: str) -> None:
    """Print a line as it is, above a bar if there is one; output to a full disk is lost."""
    with suppress(OSError):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressReport:
    """Shows steps, steps per second, the mean return and the time left."""

    def __init__(self, console: Console, total_steps: int, step: int) -> None:
        self.console, self.total_steps = console, total_steps
        self.first_step, self.began = step, time.monotonic()
        self.last_line = self.last_count = float("-inf")
        self.bar = Progress(
            TextColumn("{task.fields[steps]}"),
            BarColumn(bar_width=None),
            TaskProgressColumn(),
            TextColumn("{task.fields[speed]:,.0f} steps/s"),
            TextColumn("return {task.fields[score]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task(
            "", total=total_steps, completed=step, steps=_steps(step), speed=0, score="-"
        )
        self.bar.start()

    def speed(self, step: int) -> float:
        """Steps per second since the run was started or continued."""
        return (step - self.first_step) / max(time.monotonic() - self.began, 1e-9)

    def show(self, step: int, mean_return: float | None) -> None:
        """Show the progress at this step."""
        score = "-" if mean_return is None else f"{mean_return:.3g}"
        speed = self.speed(step)
        self.bar.update(self.task, completed=step, steps=_steps(step), speed=speed, score=score)
        if self.console.is_terminal:
            return
        if time.monotonic() - self.last_line >= LINE_INTERVAL or step >= self.total_steps:
            self.last_line = time.monotonic()
            left = max(self.total_steps - step, 0) / max(speed, 1e-9)
            say(
                self.console,
                f"{_steps(step)} of {_steps(self.total_steps)} steps  {speed:,.0f} steps/s  "
                f"return {score}  {left / 60:.1f} min left",
            )

    def show_evaluation(self, ended: int, episodes: int, steps: int) -> None:
        """Show how far an evaluation is, at every step of it."""
        now = time.monotonic()
        if self.console.is_terminal:
            if now - self.last_count >= COUNT_INTERVAL:
                self.last_count = now
                self.bar.update(self.task, steps=_evaluating(ended, episodes, steps))
        elif now - self.last_line >= LINE_INTERVAL:
            self.last_line = now
            say(self.console, _evaluating(ended, episodes, steps))

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()


@contextmanager
def evaluation_status(episodes: int) -> Generator[Callable[[int, int], None] | None]:
    """Shows on a terminal how far an evaluation is; the function is called at every step of it."""
    console, last = Console(stderr=True), time.monotonic()
    if not console.is_terminal:
        yield None
        return
    with console.status(_evaluating(0, episodes, 0)) as status:

        def watch(ended: int, steps: int) -> None:
            nonlocal last
            if time.monotonic() - last >= COUNT_INTERVAL:
                last = time.monotonic()
                status.update(_evaluating(ended, episodes, steps))

        yield watch


def _evaluating(ended: int, episodes: int, steps: int) -> str:
    return f"evaluating: {ended:,} of {episodes:,} episodes, {steps:,} steps"


def _steps(count: int) -> str:
    return f"{count:,}"
