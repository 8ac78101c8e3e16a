"""Saving a run: when, and how: whole or not at all, and nothing older is deleted before."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from agents.distributed import any_process, from_first, num_processes
from agents.policy import RecurrentPolicy
from agents.saving import CHECKPOINTS, best_checkpoint, is_checkpoint, list_checkpoints
from fwrl.config import ConfigError, OneLineError
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    delete_checkpoint,
    load_checkpoint,
    pack,
    save_checkpoint,
    unpack,
    verify_checkpoint,
)
from fwrl.files.plain_files import free_name, identity, make_folder, replace_plain, set_aside
from fwrl.files.tensor_files import first_undefined
from fwrl.run.config import RunConfig
from fwrl.run.directory import command_to_continue, create
from fwrl.run.log import RunLog
from fwrl.run.state import Run, capture, joined
from fwrl.run.table import TABLE

# Seconds until a failed save is tried again: doubled each time, up to the second number.
FIRST_RETRY, LAST_RETRY = 2.0, 600.0
# Training ends after so many failed saves in a row.
MAX_FAILURES = 10
# Attempts to save when a training is about to end.
LAST_TRIES = 3
# By the name of each file of a checkpoint: its inode, size in bytes and time of change.
Contents = dict[str, tuple[int, int, int]]


class NotFiniteError(Exception):
    """NaN or infinity in what would be saved. The message is one line."""


class Saver:
    """Keeps a copy of what its run has reached, and writes it as a checkpoint.

    Training saves at its start, at every evaluation, ``checkpoint.every_minutes`` after the last
    checkpoint and at its end, however it ends. Of several processes the first one writes.
    """

    def __init__(
        self,
        directory: Path,
        config: RunConfig,
        policy: RecurrentPolicy,
        log: RunLog | None,
        say: Callable[[str], None],
    ) -> None:
        """Save nothing yet; ``log`` is None in all processes but the first."""
        self.directory, self._config, self._policy = directory, config, policy
        self._place, self._rescued = identity(directory), False
        self._log, self._say = log, say
        self.errors = self.failures = 0
        self.seconds = 0.0
        self.newest: Path | None = None
        """The checkpoint that this process has saved last, if it has saved any."""
        # there is nothing to save yet
        self._latest, self._is_saved = _nothing, True
        self._verified: dict[Path, Contents] = {}
        self._saved_at = self._failed_at = time.monotonic()
        self.lock = threading.RLock()
        """Held where rows of the log and the copy do not agree: another thread may have to save."""

    def reached(self, run: Run) -> None:
        """Copy the run as it is now: ``save`` writes this copy."""
        self._latest, self._is_saved = capture(run), False

    @property
    def late(self) -> bool:
        """Whether it is time, by the first process's clock, to save or to try again."""
        if self._log is None:
            return False
        now = time.monotonic()
        if self.failures:
            wait = min(FIRST_RETRY * 2 ** (self.failures - 1), LAST_RETRY)
            return now - self._failed_at >= wait
        return now - self._saved_at >= 60 * self._config.checkpoint.every_minutes

    @property
    def lost(self) -> bool:
        """Whether saving has failed too often for the training to go on."""
        return self.failures >= MAX_FAILURES

    @property
    def moved(self) -> bool:
        """Whether the directory is gone, or is another one; the next save then writes beside it."""
        return self._log is not None and identity(self.directory) != self._place

    def save(self, tries: int = 1) -> bool:
        """Save the copy unless it is saved; returns whether it is. All processes call it together.

        Raises:
            NotFiniteError: In all processes, if the state of one of them is not finite.
        """
        with self.lock:
            latest = self._latest()
            undefined = undefined_in(latest)
            # what was saved has gone with the directory
            is_saved = self._is_saved and not self.moved
            spoilt, missing = any_process(undefined is not None, not is_saved)
            if spoilt:
                what = undefined or "a state of another process"
                raise NotFiniteError(f"{what} is not finite, it is not saved")
            if missing:
                checkpoint = joined(latest, self._policy, self._config)
                self._is_saved = not any_process(not self._write(checkpoint, tries))[0]
            return self._is_saved

    def save_at_last(self) -> bool:
        """Save the copy when no later time will come; returns whether it is saved."""
        try:
            return self.save(LAST_TRIES)
        except NotFiniteError as error:
            self._say(f"{self.directory}: {error}; the last checkpoint stays")
            return False

    def _write(self, checkpoint: Checkpoint, tries: int) -> bool:
        """Write a checkpoint in the first process; returns whether that went well."""
        if self._log is None:
            return True
        if self.moved:
            self._rescue(checkpoint, self._log)
            return False
        document = checkpoint.document | {"log": self._log.positions()}
        folder = self.directory / CHECKPOINTS / str(document["counters"]["steps"])
        for attempt in range(tries):
            time.sleep(FIRST_RETRY * attempt)
            began = time.monotonic()
            try:
                self._make_room(folder)
                save_checkpoint(folder, checkpoint.tensors, document)
                # read back, before anything older is given up
                verify_checkpoint(folder)
            except (OSError, CheckpointError) as error:
                self.errors += 1
                self.failures += 1
                self._failed_at = time.monotonic()
                self._say(f"{folder}: not saved ({error})")
                continue
            self.newest = folder
            self._prune(folder)
            self.failures, self._saved_at = 0, time.monotonic()
            self.seconds = self._saved_at - began
            return True
        return False

    def _rescue(self, checkpoint: Checkpoint, log: RunLog) -> None:
        """Write the run whole beside the place where its directory was, once."""
        if self._rescued:
            return
        self._rescued = True
        reason = f"{self.directory}: was moved, deleted or replaced"
        try:
            folder = make_folder(free_name(self.directory))
            create(folder, self._config)
            table = log.table()
            replace_plain(folder / TABLE, table)
            document = checkpoint.document | {"log": {TABLE: len(table)}}
            saved = folder / CHECKPOINTS / str(document["counters"]["steps"])
            save_checkpoint(saved, checkpoint.tensors, document)
            verify_checkpoint(saved)
        except (OSError, OneLineError) as error:
            self._say(f"{reason}, and the run cannot be saved beside it ({error})")
        else:
            command = command_to_continue(folder)
            self._say(f"{reason}; the run is saved in {folder} and goes on with: {command}")

    def _make_room(self, folder: Path) -> None:
        """Rename what stands in the way of a checkpoint and is none of this step."""
        if os.path.lexists(folder) and not is_checkpoint(folder):
            self._say(f"{folder}: not a checkpoint of this run; it is now {set_aside(folder)}")

    def _prune(self, folder: Path) -> None:
        self._verified[folder] = contents(folder)
        try:
            prune_checkpoints(self.directory, self._config.checkpoint.keep, folder, self._verified)
        except OSError as error:
            self._say(f"{self.directory}: an old checkpoint could not be deleted ({error})")


def prune_checkpoints(
    run: Path, keep: int, saved: Path, verified: dict[Path, Contents] | None = None
) -> None:
    """Delete all whole checkpoints but the newest ``keep``, at least two, and the best.

    Damaged ones do not count, and stay.

    Args:
        run: The run directory.
        keep: How many to keep.
        saved: The checkpoint that was saved last; it stays wherever its step stands among others.
        verified: The contents of those that were read to their end; others are read now, and added.
    """
    verified = {} if verified is None else verified
    whole = [folder for folder in list_checkpoints(run) if _is_whole(folder, verified)]
    if not whole:
        return
    # should the newest be damaged one day, there is one before it
    stay = {saved, best_checkpoint(whole), *whole[-max(keep, 2) :]}
    for folder in whole:
        if folder not in stay:
            delete_checkpoint(folder)
    _clear_unfinished(run / CHECKPOINTS)


def _clear_unfinished(folder: Path) -> None:
    """Delete what saving or deleting was killed over, in a folder that nobody else writes to."""
    for left in folder.glob(".*.tmp"):
        if left.name[1:].removesuffix(".tmp").isdigit() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)


def contents(folder: Path) -> Contents:
    """The files of a checkpoint with all that changes when somebody writes to them."""
    return {
        path.name: (state.st_ino, state.st_size, state.st_mtime_ns)
        for path in folder.iterdir()
        for state in [path.lstat()]
    }


def _is_whole(folder: Path, verified: dict[Path, Contents]) -> bool:
    found = contents(folder)
    if verified.get(folder) != found:
        try:
            verify_checkpoint(folder)
        except CheckpointError:
            return False
        verified[folder] = found
    return True


def newest_checkpoint(run: Path, say: Callable[[str], None]) -> Checkpoint:
    """The newest whole checkpoint; damaged ones are reported, and left where they are.

    All processes call it together: the first one reads for all.

    Raises:
        CheckpointError: If there is none.
    """
    if num_processes() == 1:
        return _read_newest(run, say)
    return unpack(from_first(lambda: pack(_read_newest(run, say))))


def _read_newest(run: Path, say: Callable[[str], None]) -> Checkpoint:
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            checkpoint = load_checkpoint(folder)
            undefined = undefined_in(checkpoint)
            if undefined is None:
                return checkpoint
            say(f"skipped: {folder}: {undefined} is not finite")
        except CheckpointError as error:
            say(f"skipped: {error}")
    raise CheckpointError(
        f"{run}: none of its {len(folders)} checkpoints can be read; "
        "--fresh starts anew and keeps them under another name"
    )


def _nothing() -> Checkpoint:
    return Checkpoint({}, {})


def undefined_in(checkpoint: Checkpoint) -> str | None:
    """The name of the first tensor that has NaN or infinity in it, and must not be saved."""
    for file, group in checkpoint.tensors.items():
        if file == "metrics":
            continue
        undefined = first_undefined(
            {name: leaf for name, leaf in group.items() if not name.startswith("generator.")}
        )
        if undefined is not None:
            return undefined
    return None


def check_space(saved: Path, keep: int) -> None:
    """Check that the checkpoints of a run fit on the disk, judged by the size of one of them.

    Raises:
        ConfigError: If as many as are kept do not fit.
    """
    run, size = saved.parents[1], sum(path.lstat().st_size for path in saved.iterdir())
    # as many as are kept, the best, and the one that is being written
    needed, free = size * (keep + 2), shutil.disk_usage(run).free
    if free < needed:
        raise ConfigError(
            f"{run}: {free / 1e6:,.1f} MB are free on its disk; {keep + 2} checkpoints of "
            f"{size / 1e6:,.1f} MB should fit: free some space, or choose another --run-dir"
        )
