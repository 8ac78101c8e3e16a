"""The journal of a study: lines of JSON, the last of which a full disk or a crash may tear."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fwrl.files.plain_files import MEBIBYTE, append_plain, free_name, read_plain, replace_plain

LARGEST_JOURNAL = 1024 * MEBIBYTE
# Each line of Optuna's begins so.
BEGIN = b'{"op_code":'


def repair_journal(path: Path, lock: Any, say: Callable[[str], None]) -> None:
    """Take out of a journal what Optuna could not read, so that the study goes on without it.

    Half a line at the end is cut off. Where somebody has written behind half a line, the journal
    as it was is kept under another name.

    Args:
        path: The journal; need not exist.
        lock: Optuna's own lock of it: other processes may be writing.
        say: Called with a line about what was repaired.

    Raises:
        FileError: If it is not a regular file, or cannot be read.
    """
    # before the lock, which Optuna makes beside whatever has this name
    try:
        read_plain(path, LARGEST_JOURNAL)
    except FileNotFoundError:
        return
    lock.acquire()
    try:
        _repair(path, read_plain(path, LARGEST_JOURNAL), say)
    finally:
        lock.release()


def _repair(path: Path, data: bytes, say: Callable[[str], None]) -> None:
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with append_plain(path) as file:
            file.truncate(len(whole))
        say(f"{path}: {len(data) - len(whole):,} bytes of a torn line at its end are cut off")
    lines = whole.splitlines(keepends=True)
    good = [found for line in lines if (found := _readable(line))]
    if good != lines:
        torn, before = sum(line not in good for line in lines), free_name(path)
        replace_plain(before, data)
        replace_plain(path, b"".join(good))
        say(f"{path}: {torn} torn lines are left out; it is kept as it was in {before}")


def _readable(line: bytes) -> bytes:
    """A line that Optuna can read, or the whole line behind half of another; empty if none."""
    for part in (line, line[max(line.rfind(BEGIN), 0) :]):
        try:
            if isinstance(json.loads(part), dict):
                return part
        except ValueError:
            continue
    return b""
