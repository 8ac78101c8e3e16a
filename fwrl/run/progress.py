"""What is seen while a run trains: a progress bar, or plain lines where there is no terminal."""

import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Seconds between two plain lines.
LINE_INTERVAL = 10.0


def say(console: Console, line: str) -> None:
    """One line as it is, also above a bar; none if nothing can be written there."""
    # the output may go to a file on a full disk
    with suppress(OSError):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressReport:
    """Steps, steps per second, the mean return and the time that is left."""

    def __init__(self, console: Console, total_steps: int, step: int) -> None:
        self.console, self.total_steps = console, total_steps
        self.first_step, self.began = step, time.monotonic()
        self.last_line = float("-inf")
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
        """Report where the run is."""
        score = "-" if mean_return is None else f"{mean_return:.3g}"
        speed = self.speed(step)
        self.bar.update(self.task, completed=step, steps=_steps(step), speed=speed, score=score)
        if self.console.is_terminal:
            return
        if time.monotonic() - self.last_line >= LINE_INTERVAL or step >= self.total_steps:
            self.last_line = time.monotonic()
            left = max(self.total_steps - step, 0) / max(speed, 1e-9)
            self.say(
                f"{_steps(step)} of {_steps(self.total_steps)} steps  {speed:,.0f} steps/s  "
                f"return {score}  {left / 60:.1f} min left"
            )

    def say(self, line: str) -> None:
        """One line above the bar."""
        say(self.console, line)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()


def _steps(count: int) -> str:
    return f"{count:,}"
