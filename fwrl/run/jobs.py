"""Trainings in processes of their own, several at once, which save when they are stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from fwrl.files.plain_files import FileError, append_plain, open_plain
from fwrl.run.config import MAY_CHANGE, RunConfig
from fwrl.run.directory import as_begun, claimed, open_directory
from fwrl.run.exit_codes import STOPPED
from fwrl.run.modules import import_words
from fwrl.run.precision import settled
from fwrl.run.process import choose_device

# The file in a run's directory with the output of its process.
OUTPUT = "output.txt"
# Bytes of it that are read to tell why its process has failed.
LONGEST_END = 2**16
# Seconds between two looks at the processes, and seconds that one may take to save.
INTERVAL, PATIENCE = 0.25, 120.0
# Environment variables that make a process one of several of the same training.
GROUP_VARIABLES = {"WORLD_SIZE", "RANK", "LOCAL_WORLD_SIZE", "LOCAL_RANK"}


def prepare_directory(directory: Path, config: RunConfig) -> None:
    """Make the directory this configuration's run, for a process that will train it.

    Raises:
        ConfigError: If it holds another run, or another process works in it.
    """
    with claimed(directory):
        config = settled(as_begun(directory, config), directory)
        open_directory(directory, config, MAY_CHANGE, "choose another --out")


def train_words(directory: Path, imports: Sequence[str]) -> list[str]:
    """The command that begins or continues the run of a prepared directory."""
    words = ["train", str(directory / "config.yaml"), "--run-dir", str(directory)]
    return [*words, *import_words(imports)]


class Ended(NamedTuple):
    """A process that has ended."""

    name: str
    code: int
    """The exit code, or minus the signal that killed it."""

    @property
    def was_stopped(self) -> bool:
        """Whether a signal has stopped it; the same commands continue."""
        return self.code in (STOPPED, -signal.SIGTERM, -signal.SIGINT)


class Children:
    """Running processes. Leaving the context stops them and waits until they have saved."""

    def __init__(self) -> None:
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(
        self, name: str, commands: Sequence[Sequence[str]], directory: Path, num_threads: int
    ) -> None:
        """Start a process that runs commands of ``fwrl`` one after another.

        Args:
            name: Names the process in ``ended`` and ``stop``.
            commands: The words of each command.
            directory: Receives the output, in ``output.txt``.
            num_threads: Threads of PyTorch.
        """
        words = [sys.executable, "-m", "fwrl.cli.job", *map(json.dumps, commands)]
        with append_plain(directory / OUTPUT) as output:
            self.running[name] = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=_variables(num_threads),
                # Ctrl-C reaches the parent alone, which decides
                start_new_session=True,
            )

    def ended(self) -> list[Ended]:
        """The processes that have ended since the last call."""
        codes = {name: process.poll() for name, process in self.running.items()}
        found = [Ended(name, code) for name, code in codes.items() if code is not None]
        for each in found:
            _let_go(self.running.pop(each.name))
        return found

    def stop(self, names: Iterable[str]) -> None:
        """Tell processes to save and stop; they end a little later."""
        for name in names:
            self.running[name].terminate()

    def __enter__(self) -> "Children":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.stop(self.running)
        deadline = time.monotonic() + PATIENCE
        try:
            for process in self.running.values():
                process.wait(max(deadline - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            pass
        finally:
            # also if the user interrupts the wait
            for process in self.running.values():
                process.kill()
                process.wait()
                _let_go(process)


def _let_go(process: "subprocess.Popen[bytes]") -> None:
    if process.stdin is not None:
        process.stdin.close()


def _variables(num_threads: int) -> Mapping[str, str]:
    """The environment variables of a process that trains alone."""
    own = {name: value for name, value in os.environ.items() if name not in GROUP_VARIABLES}
    return own | {"OMP_NUM_THREADS": str(num_threads)}


def failure(directory: Path, ended: Ended) -> str:
    """The reason why a process has failed, in one line: the last line of its output."""
    text = _end_of(directory / OUTPUT).decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else "nothing"
    how = f"exit code {ended.code}" if ended.code >= 0 else signal.Signals(-ended.code).name
    return f"{how}, {directory / OUTPUT} ends with: {last}"


def _end_of(log: Path) -> bytes:
    try:
        with open_plain(log) as (file, size):
            file.seek(max(0, size - LONGEST_END))
            return file.read(LONGEST_END)
    except (OSError, FileError):
        return b""


def jobs_at_once(asked: int | None, configs: Iterable[RunConfig]) -> int:
    """How many processes to run at once: as asked, or one on CUDA, or one for each processor."""
    if asked is not None:
        return asked
    configs = list(configs)
    if any(choose_device(config.device).type == "cuda" for config in configs):
        return 1
    return max(processors() // max(config.num_threads for config in configs), 1)


def processors() -> int:
    """How many processors this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return available or 1
