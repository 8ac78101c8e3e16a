"""Measures the points of a benchmark that a folder does not hold yet, in one process or several."""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty
from typing import Any, NamedTuple

from fwrl.bench import find_benchmark
from fwrl.bench.benchmark import Measurement, Progress, Row, Settings
from fwrl.files.plain_files import make_folder
from fwrl.run.process import Clock, compute_with, keep_freed_memory
from fwrl.run.signals import STOPPING, stop_signals

# Seconds between two messages of a process, and between two looks at them.
INTERVAL = 0.5


class ProcessLostError(Exception):
    """A process that measured, or that passed on its messages, was killed."""

    def __init__(self) -> None:
        super().__init__(
            "a process that measured was killed, perhaps for lack of memory; "
            "the same command measures what is missing, and fewer --jobs need less memory"
        )


class Message(NamedTuple):
    """A message of a measurement: its progress, or its rows at the end."""

    point: Row
    progress: Progress | None
    rows: list[Row]


def name_of(point: Row) -> str:
    """The name of a point for people."""
    return ", ".join(f"{key} {value}" for key, value in point.items())


def folder_of(folder: Path, point: Row) -> Path:
    """The folder of a point's checkpoints and other files."""
    name = "_".join(f"{key}-{value}" for key, value in point.items())
    return folder / "points" / "".join(c if c.isalnum() or c in "._-+" else "-" for c in name)


def holds(rows: Sequence[Row], point: Row) -> bool:
    """Whether the rows have any of a point."""
    return any(all(row.get(key) == value for key, value in point.items()) for row in rows)


def measure(
    name: str, settings: Settings, points: Sequence[Row], folder: Path, jobs: int
) -> Iterator[Message]:
    """Measure points in their order, in ``jobs`` processes; yields messages as they come.

    The last message of a point has its rows; ``folder`` is the folder of the results.

    Raises:
        ProcessLostError: If a process was killed, by the system for lack of memory or by a person.
    """
    if jobs == 1:
        for point in points:
            yield from _messages(name, settings, point, folder)
        return
    context = multiprocessing.get_context("spawn")
    manager = SyncManager(ctx=context)
    # it would complain if nobody waited for its address
    with stop_signals() as received:
        manager.start(_follow_parent)
    with manager:
        if received:
            raise KeyboardInterrupt
        queue = manager.Queue()
        others = set(multiprocessing.active_children())
        with ProcessPoolExecutor(jobs, context, _follow_parent) as pool:
            try:
                waiting = {pool.submit(_send, queue, name, settings, p, folder) for p in points}
                while waiting:
                    finished, waiting = wait(waiting, INTERVAL, FIRST_COMPLETED)
                    yield from _received(queue)
                    for future in finished:
                        future.result()
            except BaseException as error:
                # before leaving the pool, which would wait for all measurements in progress
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()
                if isinstance(error, BrokenProcessPool | EOFError | ConnectionError):
                    raise ProcessLostError from None
                raise


def _messages(name: str, settings: Settings, point: Row, folder: Path) -> Iterator[Message]:
    keep_freed_memory()
    compute_with(settings.num_threads)
    own = make_folder(folder_of(folder, point))
    began, clock = time.perf_counter(), Clock(INTERVAL)
    measurement: Measurement = find_benchmark(name).measure(settings, point, own)
    while True:
        try:
            progress = next(measurement)
        except StopIteration as end:
            found: list[Row] = end.value
            break
        if clock.due():
            yield Message(point, progress, [])
    seconds = round(time.perf_counter() - began, 1)
    yield Message(point, None, [{**point, **row, "seconds": seconds} for row in found])


# a queue is a manager's proxy, of a class that is made at run time
def _send(queue: Any, name: str, settings: Settings, point: Row, folder: Path) -> None:
    for message in _messages(name, settings, point, folder):
        queue.put(message)


def _received(queue: Any) -> Iterator[Message]:
    while True:
        try:
            yield queue.get_nowait()
        except Empty:
            return


def _follow_parent() -> None:
    """Leave signals to the parent process, and end with it, even if it is killed."""
    # those that a terminal sends to all processes of a command
    for number in set(STOPPING) - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
