"""When and how a run is saved: whole or not at all, and nothing older is deleted before."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch

from agents.saving import CHECKPOINTS, best_checkpoint, list_checkpoints
from fwrl.config import ConfigError
from fwrl.files.checkpoint import (
    Checkpoint,
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
    verify_checkpoint,
)
from fwrl.run.config import CheckpointConfig

# Seconds until a save that failed is tried again: doubled each time, up to the second number.
FIRST_RETRY, LAST_RETRY = 2.0, 600.0
# A training that has something new to save and cannot, so many times in a row, ends.
MAX_FAILURES = 10
# In a row, when a training is about to end.
LAST_TRIES = 3


class Saver:
    """Writes the checkpoints of one run, in the process that does."""

    def __init__(self, run: Path, config: CheckpointConfig, say: Callable[[str], None]) -> None:
        self.run, self.config, self.say = run, config, say
        self.errors = self.failures = 0
        self.seconds = 0.0
        self.latest, self.is_saved = Checkpoint({}, {}), False
        self._saved_at = self._failed_at = time.monotonic()

    def reached(self, captured: Checkpoint) -> None:
        """What would be saved if the training ended now."""
        self.latest, self.is_saved = captured, False

    def due(self) -> bool:
        """Whether it is time, by the clock, to save or to try again."""
        now = time.monotonic()
        if self.failures:
            wait = min(FIRST_RETRY * 2 ** (self.failures - 1), LAST_RETRY)
            return now - self._failed_at >= wait
        return now - self._saved_at >= 60 * self.config.every_minutes

    @property
    def lost(self) -> bool:
        """Whether saving has failed too often for the training to go on."""
        return self.failures >= MAX_FAILURES

    def save(self, checkpoint: Checkpoint, at_last: bool = False) -> bool:
        """Write what was reached and delete what it replaces; whether that went well.

        Args:
            checkpoint: All of it, of all processes.
            at_last: There will be no later time: try a few times now.
        """
        for attempt in range(LAST_TRIES if at_last else 1):
            time.sleep(FIRST_RETRY * attempt)
            if self._try_to_save(checkpoint):
                return True
        return False

    def _try_to_save(self, checkpoint: Checkpoint) -> bool:
        began = time.monotonic()
        folder = self.run / CHECKPOINTS / str(checkpoint.document["counters"]["steps"])
        try:
            save_checkpoint(folder, checkpoint.tensors, checkpoint.document)
            # read back, before anything older is given up
            verify_checkpoint(folder)
            prune_checkpoints(self.run, self.config.keep)
        except (OSError, CheckpointError) as error:
            self.errors += 1
            self.failures += 1
            self._failed_at = time.monotonic()
            self.say(f"{folder}: not saved ({error})")
            return False
        self.failures, self.is_saved, self._saved_at = 0, True, time.monotonic()
        self.seconds = self._saved_at - began
        return True


def prune_checkpoints(run: Path, keep: int) -> None:
    """Delete all checkpoints but the newest ``keep``, two at least, and the best."""
    folders = list_checkpoints(run)
    if folders:
        best = best_checkpoint(folders)
        # should the newest be damaged one day, there is one before it
        for folder in folders[: -max(keep, 2)]:
            if folder != best:
                shutil.rmtree(folder)


def newest_checkpoint(run: Path, say: Callable[[str], None]) -> Checkpoint:
    """The newest one that is whole; those that are not are told, and left where they are.

    Raises:
        CheckpointError: If there is none.
    """
    folders = list_checkpoints(run)
    for folder in reversed(folders):
        try:
            return load_checkpoint(folder)
        except CheckpointError as error:
            say(f"skipped: {error}")
    raise CheckpointError(
        f"{run}: none of its {len(folders)} checkpoints can be read; "
        "--fresh starts anew and keeps them under another name"
    )


def undefined_in(checkpoint: Checkpoint) -> str | None:
    """The first tensor that must not be saved, because NaN or infinity is in it."""
    for file, group in checkpoint.tensors.items():
        if file == "metrics":
            continue
        for name, leaf in group.items():
            if name.startswith("generator."):
                continue
            if leaf.is_floating_point() and not bool(torch.isfinite(leaf).all()):
                return name
    return None


def check_space(run: Path, keep: int) -> None:
    """Nothing, if the checkpoints that a run keeps fit on the disk, judged by its newest.

    Raises:
        ConfigError: If they do not.
    """
    newest = list_checkpoints(run)[-1]
    size = sum(path.stat().st_size for path in newest.iterdir())
    # as many as are kept, the best, and the one that is being written
    needed, free = size * (keep + 2), shutil.disk_usage(run).free
    if free < needed:
        raise ConfigError(
            f"{run}: {free / 1e6:,.1f} MB are free on its disk; {keep + 2} checkpoints of "
            f"{size / 1e6:,.1f} MB should fit: free some space, or choose another --run-dir"
        )
