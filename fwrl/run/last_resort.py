"""The end of a process that was told to stop and does not: it is ended, with everything saved.

A training looks for signals between two steps of its environments and between two gradient steps.
An environment that hangs, or a long replay, never comes to such a point.
"""

import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from fwrl.run.exit_codes import FAILED, STOPPED
from fwrl.run.signals import STOPPING

# Seconds after a signal; saving takes some of the ten that are promised.
LIMIT = 7.0


@dataclass
class LastResort:
    """The way to save before the process is ended."""

    save: Callable[[], bool] | None = None
    """Saves what was reached, in another thread, and returns whether it is saved. None: there is
    nothing to save."""


@contextmanager
def ending_in_time(farewell: Callable[[], None]) -> Generator[LastResort]:
    """End the process ``LIMIT`` seconds after a stopping signal, unless it leaves the block.

    The system tells a thread about the signal even while the main thread is busy, unless that
    holds Python's lock.

    Args:
        farewell: Called if everything is saved, before the process ends.
    """
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    resort = LastResort()
    previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, resort, farewell), daemon=True)
    watcher.start()
    try:
        yield resort
    finally:
        signal.set_wakeup_fd(previous)
        writer.close()
        # it may be saving
        watcher.join()
        reader.close()


def _watch(reader: socket.socket, resort: LastResort, farewell: Callable[[], None]) -> None:
    deadline: float | None = None
    while True:
        reader.settimeout(None if deadline is None else max(deadline - time.monotonic(), 1e-3))
        try:
            numbers = reader.recv(64)
        except TimeoutError:
            break
        if not numbers:
            return
        if deadline is None and set(numbers) & {*map(int, STOPPING)}:
            deadline = time.monotonic() + LIMIT
    _end(resort, farewell)


def _end(resort: LastResort, farewell: Callable[[], None]) -> None:
    code = FAILED
    try:
        if resort.save is None or resort.save():
            code = STOPPED
            farewell()
    finally:
        os._exit(code)
