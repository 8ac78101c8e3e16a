"""Progress of a training: a bar, or plain lines where there is no terminal."""

import time
from contextlib import suppress

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

# Seconds between two plain lines.
LINE_INTERVAL = 10.0


def say(console: Console, line: str) -> None:
    """Print a line as it is, above a bar if there is one; output to a full disk is lost."""
    with suppress(OSError):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressReport:
    """Shows steps, steps per second, the mean return and the time left."""

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

    def close(self) -> None:
        """Leave the bar as it stands."""
        self.bar.stop()


def _steps(count: int) -> str:
    return f"{count:,}"
