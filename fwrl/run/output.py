"""Standard output, whose reader may leave at any time."""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from io import TextIOWrapper

import typer
from rich.console import Console
from typing_extensions import override

STANDARD_STREAMS = (0, 1, 2)


class OutputClosedError(BaseException):
    """Nobody reads standard output any more. No Exception, as Ctrl-C is none."""


# Commands that stop by the one stop by the other.
INTERRUPTIONS = (KeyboardInterrupt, OutputClosedError)


class Output(Console):
    """A console that falls silent when its reader leaves; rich would end the process."""

    def __init__(self, on_close: Callable[[], None], quiet: bool = False) -> None:
        """Call ``on_close`` once, when the reader has left."""
        super().__init__(quiet=quiet)
        self._on_close = on_close

    @override
    def on_broken_pipe(self) -> None:
        self.quiet = True
        silence()
        with suppress(OSError):
            typer.echo("fwrl: nobody reads the output any more", err=True)
        self._on_close()


def interrupt() -> None:
    """Stop a command whose output nobody reads any more."""
    raise OutputClosedError


def tell(text: str) -> None:
    """Print a command's result.

    Raises:
        OutputClosedError: If nobody reads it.
    """
    try:
        typer.echo(text)
    except BrokenPipeError:
        silence()
        raise OutputClosedError from None


def silence() -> None:
    """Let all further output vanish, also what Python writes at its very end."""
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.close(nothing)


def open_streams() -> None:
    """Prepare the standard streams for whatever the shell has made of them.

    Streams that are closed get a place to write to: the next file that is opened would take their
    number, and receive what is printed. Characters that a stream cannot show are escaped.
    """
    for stream in STANDARD_STREAMS:
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for text in (sys.stdout, sys.stderr):
        # None if it was closed
        if isinstance(text, TextIOWrapper) and text.errors == "strict":
            text.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Write out what was printed; what cannot be written is lost, and changes no exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        silence()
